"""The memory and cost of serving a fine-tuned model: weights, cache, adapters."""
