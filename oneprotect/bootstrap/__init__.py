"""The composition root: the one place where settings turn into parts, and where a provider is picked.

`opening` has what every process opens, `process` what every process is; `consumer` and `api` are the two deployments.
"""
