"""Asking a person at a terminal."""

import sys


def is_yes(question: str) -> bool:
    """Whether a person at the terminal says yes; where there is nobody to ask, it is taken for granted."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
