"""Explanations of out-of-memory errors: the failed allocation, the live tensors, and changes that end the error."""
