"""LN Tuning."""
