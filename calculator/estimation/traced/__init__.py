"""Answers from a trace of the real modules, for models that the calculator does not model."""
