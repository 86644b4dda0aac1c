"""The facts about TRL's KTOTrainer."""

from dataclasses import replace

from calculator.trainers.transformers.facts import FACTS as TRANSFORMERS
from calculator.trainers.trl_defaults import DEFAULTS, least_rows

#: Source: trl/trainer/kto_trainer.py, DataCollatorForUnpairedPreference and _compute_loss.
STEP = (
    "The step is that of TRL's KTOTrainer. With the loss kto, a second batch of the same shape (KL_input_ids) runs "
    "under no_grad: in the model before its own pass, and in the reference. The reference runs while the model's "
    "graph is alive. Dropout modules drop nothing (disable_dropout=True). Evaluation, logging and data loading are "
    "not counted."
)

SUMMARY = (
    "Each batch has a second one that estimates the KL divergence. A reference runs both while the model's graph is "
    "alive: a second model in memory with full fine-tuning, the model without its adapters with PEFT, nothing if its "
    "log-probabilities are precomputed. The logits are never built."
)

FACTS = replace(
    TRANSFORMERS,
    label="TRL KTOTrainer",
    source="trl/trainer/kto_trainer.py",
    summary=SUMMARY,
    defaults=(*DEFAULTS, least_rows("TRL 1.16, trainer/kto_trainer.py: the loss kto pairs rows")),
    compares=True,
    runs_no_grad_first=True,
    has_prompts=True,
    disables_dropout=True,
    batch=("input_ids", "attention_mask", "completion_mask"),
    scalars=("tr_loss", "tr_loss_step", "grad_norm"),
    offloads_saved_tensors=True,
    assumptions=(STEP,),
)
