"""A miniature of PyTorch: tape, autograd, operations, and the memory curve they give."""
