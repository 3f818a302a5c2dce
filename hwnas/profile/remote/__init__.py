"""Measure on other machines: an agent there, a connection to it, and the graphs that it is sent."""
