"""Random requests, estimated and traced."""
