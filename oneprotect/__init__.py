"""The program: how the parts are wired, and its faces."""
