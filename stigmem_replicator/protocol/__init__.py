"""The wire: bytes and values in, values out; no input or output of its own."""
