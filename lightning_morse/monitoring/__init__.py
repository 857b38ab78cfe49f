"""The steps of an analysis during training, and what is kept of the run for them."""
