"""Decoded cases: in memory, in the user's cache, or in a packed file."""
