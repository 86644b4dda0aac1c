"""Adaption prompts."""
