"""The facts about TRL's ORPOTrainer."""

from dataclasses import replace

from calculator.trainers.transformers.facts import FACTS as TRANSFORMERS
from calculator.trainers.trl_defaults import DEFAULTS

#: Source: trl/experimental/orpo/orpo_trainer.py, concatenated_forward and get_batch_loss_metrics.
STEP = (
    "The step is that of TRL's ORPOTrainer. A row is a chosen and a rejected sequence, which the model runs together: "
    "completion_tokens counts the labeled tokens of both, and the rest of a sequence is its prompt. All logits are "
    "computed. Dropout modules drop nothing (disable_dropout=True). Evaluation, logging and data loading are not "
    "counted."
)

SUMMARY = (
    "A row is a chosen and a rejected sequence. There is no reference, but all logits of both are computed, copied "
    "without the last position, and read again for the log-probabilities."
)

#: A model that is given by its name keeps its dtype.
_DEFAULTS = tuple(
    default for default in DEFAULTS if default.path in ("training.autocast", "training.gradient_checkpointing")
)

FACTS = replace(
    TRANSFORMERS,
    label="TRL ORPOTrainer",
    source="trl/experimental/orpo/orpo_trainer.py",
    summary=SUMMARY,
    defaults=(*_DEFAULTS, DEFAULTS[-1]),
    sequences=2,
    has_prompts=True,
    disables_dropout=True,
    batch=(),
    scalars=("tr_loss", "tr_loss_step", "grad_norm"),
    assumptions=(STEP,),
)
