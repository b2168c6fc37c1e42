"""Requests to peers: the only network."""
