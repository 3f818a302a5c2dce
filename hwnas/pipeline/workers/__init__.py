"""Processes and actors that evaluate networks for a command."""
