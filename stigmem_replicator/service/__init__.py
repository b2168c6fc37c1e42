"""The process around the engine: what must be ready, how it starts and how it stops."""
