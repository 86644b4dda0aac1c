"""The host memory of a process while it loads a model and while it evaluates, measured on the CPU."""
