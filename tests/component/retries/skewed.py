"""`python -m tests.component.retries.skewed SECONDS`: a consumer whose clock is ahead by so many seconds."""

import sys
import time

from oneprotect.__main__ import main

if __name__ == "__main__":
    ahead_s, right = float(sys.argv[1]), time.time
    time.time = lambda: right() + ahead_s
    sys.argv = ["oneprotect", "consumer"]
    main()
