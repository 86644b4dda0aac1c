"""The page `/inference`: the memory and cost of serving a fine-tuned model."""
