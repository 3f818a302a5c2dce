"""Accuracies of the smallest and the largest network of a supernet, and whether they call for a warning."""

SUPERNET_EXTREMES = [
    # smallest, largest, number of images, warns
    (0.50, 0.53, 1_000, True),
    (0.70, 0.705, 100_000, False),
    (0.71, 0.74, 180, True),
    (0.71, 0.74, 10_000, False),
    (0.71, 0.84, 180, False),
    (0.80, 0.70, 10_000, True),
    (0.5, 0.5, 100, True),
    (1.0, 1.0, 100, True),
]
