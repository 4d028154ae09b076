"""Looks at an installation and says what is wrong with it, and how to mend that. Changes nothing.

`examination` runs all of it; every other file examines one thing, and takes values and connections, not settings. What
it says names tenants, credentials and variables: no ref, no value of a variable, and nothing of a secret.
"""
