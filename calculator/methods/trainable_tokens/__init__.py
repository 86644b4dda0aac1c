"""Trainable tokens."""
