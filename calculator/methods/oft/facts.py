"""The facts about OFT."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

FACTS = in_plain_steps(
    label="OFT",
    shardings=("ddp", "fsdp", "zero1", "zero2", "zero3"),
    summary="OFT (Qiu et al. 2023): block-diagonal rotations of the input of frozen weights.",
    trainable="in_features / b · b · (b − 1) / 2 per adapted matrix, with blocks of size b",
    inference_overhead="none once merged; unmerged, a rotation of the input per adapted matrix",
    mergeable=True,
    best_for="keeping what the base knows: rotations preserve the angles between neurons",
    source="Qiu et al. 2023, arXiv 2306.07280; merging: peft, tuners/oft/layer.py, Linear.merge",
    peft_type="OFT",
    config_class="OFTConfig",
    default_targets=DEFAULT_TARGETS,
    forward_operations=2,
    backward_operations=4,
)
