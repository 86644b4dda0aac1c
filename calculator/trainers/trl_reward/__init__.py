"""TRL's RewardTrainer."""
