"""BEFT."""
