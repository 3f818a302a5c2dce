"""Labelled images: sources, splits, augmentation and loading."""
