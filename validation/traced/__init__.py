"""The engine for models that the calculator does not model: their real step, traced in a process with limits."""
