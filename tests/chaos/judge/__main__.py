"""`python -m tests.chaos.judge`: run a trial with a seed, or look at a saved history again."""

import argparse
import asyncio
import secrets
import sys
import tempfile
from pathlib import Path

from tests.chaos.judge.checker import check
from tests.chaos.judge.history import History
from tests.chaos.judge.trial import Plan, judge, report
from tests.chaos.judge.versions import Version


def main() -> int:
    """Print the figures and the findings; return 1 when there is a finding."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.judge", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--unordered", action="store_true", help="without destinations that keep an order")
    parser.add_argument("--ack-wait-s", type=float, default=10)
    parser.add_argument("--rate", type=float, default=8, help="requests per second to each destination")
    parser.add_argument("--checkout", type=Path, help="judge the product in this checkout instead of this one")
    parser.add_argument("--old", help="commit whose version the second consumer runs")
    parser.add_argument("--directory", type=Path, help="where logs, streams and the history are kept")
    parser.add_argument("--history", type=Path, help="judge this saved history instead")
    arguments = parser.parse_args()
    if arguments.history:
        history = History.load(arguments.history)
        verdict = check(history)
    else:
        directory = arguments.directory or Path(tempfile.mkdtemp(prefix="judge-"))
        directory.mkdir(parents=True, exist_ok=True)
        plan = Plan(
            seconds=arguments.seconds,
            seed=arguments.seed,
            ordered=not arguments.unordered,
            ack_wait_s=arguments.ack_wait_s,
            rate_per_s=arguments.rate,
            version=Version(arguments.checkout, Path(sys.executable)) if arguments.checkout else None,
            old=Version.of(arguments.old, directory / "old") if arguments.old else None,
        )
        sys.stdout.write(f"seed {plan.seed}, in {directory}\n")
        history, verdict = asyncio.run(judge(plan, directory))
    sys.stdout.write("".join(f"{line}\n" for line in report(history, verdict)))
    return int(bool(verdict.findings))


if __name__ == "__main__":
    sys.exit(main())
