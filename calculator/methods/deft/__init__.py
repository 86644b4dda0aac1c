"""DEFT."""
