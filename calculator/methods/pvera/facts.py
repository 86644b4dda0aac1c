"""The facts about PVeRA."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import ATTENTION_TARGETS

FACTS = in_plain_steps(
    label="PVeRA",
    shardings=("ddp", "fsdp", "zero1", "zero2", "zero3"),
    buffers_like="adapters",
    summary="PVeRA: VeRA whose inner vector is drawn from a trained normal distribution.",
    trainable="out_features + 2 · r per adapted matrix",
    inference_overhead="none once merged; unmerged, two thin products and two scalings per adapted matrix",
    mergeable=True,
    best_for="many tasks, with few parameters for each",
    source="peft, tuners/pvera/layer.py, Linear.forward and merge",
    peft_type="PVERA",
    config_class="PveraConfig",
    default_targets=ATTENTION_TARGETS,
    refuses_unmerged="the products with the shared matrices are not counted",
)
