"""Features of a network: physical costs and mean shapes, from its operations."""
