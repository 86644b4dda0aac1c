"""Traces of live tensors: real modules run on the meta device, and every allocation is recorded."""
