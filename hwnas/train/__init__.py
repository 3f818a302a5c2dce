"""Data, training and the accuracy of sub-networks."""
