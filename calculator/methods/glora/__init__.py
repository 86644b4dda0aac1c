"""GLoRA."""
