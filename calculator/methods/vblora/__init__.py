"""VB-LoRA."""
