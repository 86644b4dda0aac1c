"""PSOFT."""
