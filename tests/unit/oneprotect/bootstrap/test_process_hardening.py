"""The process's memory is kept to itself."""

import subprocess
import sys

_SCRIPT = """
import ctypes, resource
from oneprotect.bootstrap.process_hardening import harden_process
before = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
print(before, harden_process(), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))
"""


def test_hardening() -> None:
    """After it, the process can't dump core and, on Linux, is not dumpable, which it was before."""
    run = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)

    expected = "1 True 0 (0, 0)" if sys.platform == "linux" else "False"
    assert expected in run.stdout
