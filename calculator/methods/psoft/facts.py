"""The facts about PSOFT."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

FACTS = in_plain_steps(
    label="PSOFT",
    shardings=("ddp", "zero1", "zero2"),
    summary="PSOFT: a trained rotation between the largest singular vectors of a frozen weight.",
    trainable="r · (r - 1) / 2 + 2 · r per adapted matrix",
    inference_overhead="none once merged; unmerged, three thin products per adapted matrix",
    mergeable=True,
    best_for="orthogonal fine-tuning with few parameters",
    source="peft, tuners/psoft/layer.py, Linear.forward and merge",
    peft_type="PSOFT",
    config_class="PsoftConfig",
    default_targets=DEFAULT_TARGETS,
    refuses_unmerged="computing the rotation is not counted",
)
