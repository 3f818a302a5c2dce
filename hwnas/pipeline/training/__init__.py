"""Training: what is asked for, what it is worked out to, and doing it."""
