"""The checkpoints of the four published systems, turned into ours."""
