"""What LoRA and QLoRA share."""
