"""The facts about TRL's RewardTrainer."""

from dataclasses import replace

from calculator.trainers.transformers.facts import FACTS as TRANSFORMERS
from calculator.trainers.trl_defaults import DEFAULTS

#: Source: trl/trainer/reward_trainer.py, DataCollatorForPreference and compute_loss.
STEP = (
    "The step is that of TRL's RewardTrainer. A row is a chosen and a rejected sequence, which the model runs "
    "together. The model is AutoModelForSequenceClassification with one label: a head named score takes the place of "
    "the output head. Dropout modules drop nothing (disable_dropout=True). Evaluation, logging and data loading are "
    "not counted."
)

#: Source: trl/trainer/reward_trainer.py of TRL 0.15.2 to 0.23.1, compute_loss.
STEP_BEFORE_0_24 = STEP.replace("which the model runs together", "and the model runs each of them by itself")

SUMMARY = (
    "A row is a chosen and a rejected sequence. The model has a head named score with one output in place of its "
    "output head: there are no logits of the vocabulary. PEFT trains a copy of that head too."
)

FACTS = replace(
    TRANSFORMERS,
    label="TRL RewardTrainer",
    source="trl/trainer/reward_trainer.py",
    summary=SUMMARY,
    defaults=DEFAULTS,
    sequences=2,
    disables_dropout=True,
    batch=("input_ids", "attention_mask"),
    scalars=("tr_loss", "tr_loss_step", "grad_norm"),
    offloads_saved_tensors=True,
    assumptions=(STEP,),
)
