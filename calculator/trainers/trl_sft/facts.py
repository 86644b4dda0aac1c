"""The facts about TRL's SFTTrainer."""

from dataclasses import replace

from calculator.trainers.transformers.facts import FACTS as TRANSFORMERS

#: trl/trainer/sft_trainer.py, DataCollatorForLanguageModeling and compute_loss.
STEP = (
    "The step is that of TRL's SFTTrainer, a subclass of transformers.Trainer: every batch of a step is fetched at "
    "once, with input_ids, labels and attention_mask, and nothing is cached. Evaluation, logging and data loading are "
    "not counted."
)

FACTS = replace(TRANSFORMERS, label="TRL SFTTrainer", source="trl/trainer/sft_trainer.py", assumptions=(STEP,))
