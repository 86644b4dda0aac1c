"""TRL's RLOOTrainer."""
