"""An origin whose pages are scripted: it keeps the wire's rules, or breaks them as a test says."""
