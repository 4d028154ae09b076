"""The command line: one file per group of commands, and `app` that puts them together.

These files import nothing heavy: a command imports what it needs when it runs, so that `--help` is there at once.
"""
