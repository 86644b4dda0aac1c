"""DeLoRA."""
