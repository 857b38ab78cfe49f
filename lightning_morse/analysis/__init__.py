"""From a loss on a box to its Morse graph, basins and mu."""
