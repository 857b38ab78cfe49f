"""The surrogate: a Gaussian process of the warped loss, its fit, and what follows from it alone."""
