"""From recorded trajectories to the Morse graph of the map that made them."""
