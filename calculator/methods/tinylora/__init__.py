"""TinyLoRA."""
