"""QLoRA."""
