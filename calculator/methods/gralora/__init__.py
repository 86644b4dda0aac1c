"""GraLoRA."""
