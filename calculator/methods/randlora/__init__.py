"""RandLoRA."""
