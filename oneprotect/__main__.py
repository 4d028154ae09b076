"""`oneprotect` and `python -m oneprotect`."""

import sys
from typing import NoReturn

from oneprotect.cli.app import run


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
