"""TRL's DPOTrainer."""
