"""The real modules, methods, optimizers and steps."""
