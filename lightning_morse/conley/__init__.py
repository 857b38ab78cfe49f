"""Combinatorial dynamics: outer approximations, Morse graphs, basins, blocks, Conley indices.

Nothing here knows about losses or surrogates.
"""
