"""Everything that the two processes share: messages, records, the pickle of items, shared memory. Imports no side."""
