"""Simultaneous confidence bands: how far a surrogate may be off, everywhere at once."""
