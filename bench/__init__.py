"""What one consumer delivers in a second and how soon, beside a bare loop on the same libraries in the same run.

Absolute figures say more about the machine than about the program, so the line to watch is the ratio of the two.
Everything listens on loopback, and every phase has a deadline. `python -m bench` says whether each delivery came, was
signed as it should be and is on record; if not, it fails, however fast it was.
"""
