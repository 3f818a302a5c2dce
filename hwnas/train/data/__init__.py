"""Labeled images: datasets, splits, augmentation and loaders of batches."""
