"""Comparison of estimates with real modules, traced on the meta device or measured on CUDA."""
