"""The peers: task queues and frameworks that people build webhook delivery upon, doing the product's work beside it.

`workers/` and `bullmq/` are what a user of each would write, by its documentation; they run in an environment of their
own, which `install` makes. The rest starts them, measures them and verifies what they did.
"""
