"""What runs in a worker process: the producer, its runners, and its ends of the transports. Imports no asyncio."""
