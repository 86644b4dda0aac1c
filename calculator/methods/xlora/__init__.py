"""X-LoRA."""
