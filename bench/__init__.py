"""Throughput and latency of one consumer, compared with a bare loop on the same libraries in the same run.

Absolute figures depend on the machine, so compare the ratio of the two. Everything listens on loopback, and every
phase has a deadline. `python -m bench` fails unless each delivery arrived, was signed correctly and is on record.
"""
