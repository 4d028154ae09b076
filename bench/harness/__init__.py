"""Shared parts of the measurements: workload, child processes, receiver, bare loops, checks and results."""
