"""The node's database: the only SQL."""
