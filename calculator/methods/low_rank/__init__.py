"""The parts that LoRA and QLoRA share."""
