"""Several processes: who evaluates what, and what happens when one of them fails."""
