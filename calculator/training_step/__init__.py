"""One training step, interpreted symbolically."""
