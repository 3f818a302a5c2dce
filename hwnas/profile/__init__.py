"""Networks timed on a device: runners, the worker process, strict pairs with a reference network, and what they say."""
