"""Liger's kernels, as `use_liger_kernel` patches them into a model's modules."""
