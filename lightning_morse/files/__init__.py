"""Files: written whole or not at all, read with suspicion, no larger than the disk allows."""
