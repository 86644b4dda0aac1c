"""The facts about VeRA."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import ATTENTION_TARGETS

FACTS = in_plain_steps(
    label="VeRA",
    shardings=("ddp", "fsdp", "zero1", "zero2", "zero3"),
    buffers_like="adapters",
    summary="VeRA (Kopiczko et al. 2023): vectors that scale two frozen random matrices, which all layers share.",
    trainable="out_features + r per adapted matrix",
    inference_overhead="none once merged; unmerged, two thin products and two scalings per adapted matrix",
    mergeable=True,
    best_for="many tasks, with few parameters for each",
    source="Kopiczko et al. 2023, arXiv 2310.11454; merging: peft, tuners/vera/layer.py, Linear.merge",
    peft_type="VERA",
    config_class="VeraConfig",
    default_targets=ATTENTION_TARGETS,
    forward_operations=2,
    backward_operations=4,
)
