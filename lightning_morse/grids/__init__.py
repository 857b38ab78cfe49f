"""Cells of a box: cubical and adaptive grids, and the lattice of points that refines a grid."""
