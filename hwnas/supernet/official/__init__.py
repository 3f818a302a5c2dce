"""Conversion of the official checkpoints of the published systems."""
