"""Commands. They parse options, and import what they run when they run it, so that `--help` starts fast."""
