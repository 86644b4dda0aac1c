"""Comparison of estimates with traces."""
