"""Barriers on lines between two sets of weights: where to evaluate, and what is certain then."""
