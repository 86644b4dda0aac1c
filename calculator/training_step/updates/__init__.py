"""Optimizers that update one parameter after the other: the temporaries of their steps."""
