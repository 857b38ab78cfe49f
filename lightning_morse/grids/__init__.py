"""Partitions of a box into cells: cubical and adaptive grids, and lattices of points on them."""
