"""The live view of runs: their state, and a server that shows it."""
