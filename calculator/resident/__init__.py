"""Tensors that stay on the GPU during a run: weights, gradients, optimizer states."""
