"""Unsloth's FastLanguageModel with TRL's SFTTrainer, modelled from its source."""
