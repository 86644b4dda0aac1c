"""TRL's KTOTrainer."""
