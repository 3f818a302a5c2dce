"""What a model sees of a network: physical costs and mean shapes, read from its operations."""
