"""``python -m gcdask`` is the command ``gcdask``."""

import sys

from gcdask.cli import main

if __name__ == "__main__":  # worker processes import this module again
    sys.exit(main())
