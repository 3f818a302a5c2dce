"""What fitting and predicting share: networks and their figures as a predictor takes them."""
