"""The decisions: what to fetch, when, and what to write; no input or output of its own."""
