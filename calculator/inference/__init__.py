"""What it takes to serve a tuned model: weights, cache, adapters, and what a method costs over its base."""
