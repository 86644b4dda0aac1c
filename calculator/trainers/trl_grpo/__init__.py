"""TRL's GRPOTrainer."""
