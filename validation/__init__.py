"""Estimates held against real modules: traced on the meta device, measured on CUDA."""
