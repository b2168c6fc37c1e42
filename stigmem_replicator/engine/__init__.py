"""Pulling, as tasks: the only concurrency."""
