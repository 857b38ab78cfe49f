"""Combinatorial dynamics: maps on cells, Morse graphs, attractors, basins, Conley indices.

Nothing here knows a loss or a surrogate.
"""
