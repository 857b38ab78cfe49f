"""A network's loss on an affine subspace of its weights, and the choice of that subspace."""
