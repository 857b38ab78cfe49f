"""``python -m lightning_morse.cli``."""

import sys

from lightning_morse.cli import main

if __name__ == "__main__":  # and not where modules are only collected
    sys.exit(main())
