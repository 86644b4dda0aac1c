"""TRL's ORPOTrainer."""
