"""Fitting predictors, predicting networks, and importing published tables."""
