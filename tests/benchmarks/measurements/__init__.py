"""What a measuring process does: each module has functions from parameters to figures, run by ``child``."""
