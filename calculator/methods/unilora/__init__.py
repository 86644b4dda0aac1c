"""UniLoRA."""
