"""Comparisons of methods, and of plans."""
