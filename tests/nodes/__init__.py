"""Real stigmem nodes, as processes on loopback, for end-to-end tests and the demo.

What is here drives the published node package from outside; nothing in it knows the replicator.
It is not a simulation: pages, signatures and database files are the node's own.
"""
