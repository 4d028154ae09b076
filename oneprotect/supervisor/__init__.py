"""Several consumers on one machine: `supervisor` keeps them running, `merging` makes one figure out of theirs."""
