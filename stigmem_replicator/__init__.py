"""Replication of facts between Stigmem nodes, as a command line; the daemon is to come."""

__version__ = "0.1.0"
