"""Peers: task queues and frameworks that are often used for webhook delivery, with the work of the product.

`workers/` and `bullmq/` are what a user of each would write, by its documentation; they run in an environment of their
own, which `install` makes. The rest starts them, measures them and verifies what they did.
"""
