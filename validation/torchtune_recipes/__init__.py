"""Traces of torchtune's recipes for one device."""
