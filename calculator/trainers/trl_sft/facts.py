"""The facts about TRL's SFTTrainer."""

from dataclasses import replace

from calculator.trainers.transformers.facts import FACTS as TRANSFORMERS
from calculator.trainers.trl_defaults import DEFAULTS

#: Source: trl/trainer/sft_trainer.py, DataCollatorForLanguageModeling and compute_loss.
STEP = (
    "The step is that of TRL's SFTTrainer, a subclass of transformers.Trainer: every batch of a step is fetched at "
    "once, with input_ids, labels and attention_mask, and nothing is cached. Evaluation, logging and data loading are "
    "not counted."
)

SUMMARY = (
    "The loss depends on TRL's release: 1.15 and 1.16 never build all logits, 1.9 builds those of 256 labeled tokens "
    "at a time, 1.0 and 0.24 build all of them. The rest is transformers' Trainer."
)

FACTS = replace(
    TRANSFORMERS,
    label="TRL SFTTrainer",
    source="trl/trainer/sft_trainer.py",
    summary=SUMMARY,
    defaults=DEFAULTS,
    offloads_saved_tensors=True,
    assumptions=(STEP,),
)
