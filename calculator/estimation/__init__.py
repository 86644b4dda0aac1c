"""The estimate of a request: from its parsed JSON to its figures."""
