"""Runners: the runtimes that networks are timed with, behind one protocol."""
