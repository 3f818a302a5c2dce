"""What a search is wired of: evaluators, defaults, verification, the kit of its winners."""
