"""The search command: options resolved to a specification, the search, verification of its front, its winners."""
