"""Figures of an analysis and of a run, made with matplotlib."""
