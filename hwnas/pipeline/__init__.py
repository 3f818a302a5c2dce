"""The verbs: the only package that wires the others together, one file a verb."""
