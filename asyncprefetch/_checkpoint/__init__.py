"""A loader's state as data, as bytes, and as a file."""
