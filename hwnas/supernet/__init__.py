"""Weights that all networks of a space share, and the networks as plain modules of their own. Needs torch."""
