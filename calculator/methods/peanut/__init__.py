"""PEANuT."""
