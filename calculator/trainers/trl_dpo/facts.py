"""The facts about TRL's DPOTrainer."""

from dataclasses import replace

from calculator.trainers.transformers.facts import FACTS as TRANSFORMERS
from calculator.trainers.trl_defaults import DEFAULTS

#: Source: trl/trainer/dpo_trainer.py, DataCollatorForPreference and _compute_loss.
STEP = (
    "The step is that of TRL's DPOTrainer. A row is a chosen and a rejected sequence, which the model runs together: "
    "completion_tokens counts the labeled tokens of both. The reference runs while the model's graph is alive, and "
    "dropout modules drop nothing (disable_dropout=True). Evaluation, logging and data loading are not counted."
)

SUMMARY = (
    "A row is a chosen and a rejected sequence. A reference runs while the model's graph is alive: a second model in "
    "memory with full fine-tuning, the model without its adapters with PEFT, nothing if its log-probabilities are "
    "precomputed. The logits are never built."
)

FACTS = replace(
    TRANSFORMERS,
    label="TRL DPOTrainer",
    source="trl/trainer/dpo_trainer.py",
    summary=SUMMARY,
    defaults=DEFAULTS,
    sequences=2,
    compares=True,
    has_prompts=True,
    disables_dropout=True,
    batch=("input_ids", "attention_mask", "completion_mask"),
    scalars=("tr_loss", "tr_loss_step", "grad_norm"),
    offloads_saved_tensors=True,
    assumptions=(STEP,),
)
