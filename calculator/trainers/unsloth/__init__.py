"""Unsloth's FastLanguageModel with TRL's SFTTrainer, modeled from its source."""
