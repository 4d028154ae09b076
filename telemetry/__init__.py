"""What the program tells about itself, without telling a secret.

`logs` is structured logging; `scrubbing` masks what looks like a secret in it; `counters` counts without a metrics
library on the hot path; `hardening` keeps the process's memory from debuggers and core dumps.
"""
