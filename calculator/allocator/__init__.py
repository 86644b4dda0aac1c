"""PyTorch's caching allocator: a replay, and a rule for reserved memory."""
