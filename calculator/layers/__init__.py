"""A miniature of transformers: attention, norms, MLPs, experts, decoder layers."""
