"""BOFT."""
