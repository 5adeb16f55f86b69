"""How a worker process is started and ended, and whether the system has what that takes. Knows nothing of the loop."""
