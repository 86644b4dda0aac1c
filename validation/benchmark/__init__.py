"""Timings of estimates and traces."""
