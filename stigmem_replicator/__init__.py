"""Replication for Stigmem nodes: pull, verify and store the facts of a node's peers."""

__version__ = "0.1.0"
