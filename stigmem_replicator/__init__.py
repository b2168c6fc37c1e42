"""Replication of facts and tombstones from the peers of a Stigmem node into its database."""

__version__ = "0.1.0"
