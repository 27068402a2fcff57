"""Entry point of `python3 -m rig`."""

import sys

from rig.cli import main

if __name__ == "__main__":
    sys.exit(main())
