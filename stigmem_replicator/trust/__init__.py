"""The verdicts: what may be admitted, decided by pure functions over looked-up values."""
