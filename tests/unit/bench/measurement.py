"""A measurement for tests of the bench: writes the figure, waits, and exits with the code of its arguments."""

import sys
import time
from argparse import ArgumentParser
from pathlib import Path


def main() -> int:
    """Run the measurement and return the exit code."""
    parser = ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure")
    parser.add_argument("--wait-s", type=float, default=0.0)
    parser.add_argument("--code", type=int, default=0)
    arguments = parser.parse_args()
    time.sleep(arguments.wait_s)
    if arguments.figure:
        arguments.json.write_text(arguments.figure)
    return int(arguments.code)


if __name__ == "__main__":
    sys.exit(main())
