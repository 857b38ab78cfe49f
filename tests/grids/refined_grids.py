"""Adaptive grids for tests."""

from lightning_morse import AdaptiveGrid, CubicalGrid


def grown(grid, rounds, rng, share=0.4):
    """A cubical grid after several rounds of refining random cells."""
    tree = AdaptiveGrid.of(grid)
    for _ in range(rounds):
        tree = tree.refine(rng.random(tree.size) < share)
    return tree


def in_order(tree, depth):
    """The uniform grid of a given depth, and the adaptive cell that contains each of its cells."""
    fine = CubicalGrid(
        tree.coarse.lower, tree.coarse.upper, [n << depth for n in tree.coarse.shape]
    )
    return fine, tree.cell_of(fine.cell_centers())
