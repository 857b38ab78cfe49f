"""Rigorous images: where the flow of every field inside a band carries a cell."""
