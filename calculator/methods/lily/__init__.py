"""Lily."""
