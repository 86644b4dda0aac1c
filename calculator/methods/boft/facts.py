"""The facts about BOFT."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

FACTS = in_plain_steps(
    shardings=("ddp", "zero1", "zero2"),
    label="BOFT",
    summary="BOFT (Liu et al. 2024): each input is multiplied by a rotation that blocks make, and the output scaled.",
    trainable="in_features · boft_block_size + out_features per adapted matrix",
    inference_overhead="none once merged; unmerged, each pass makes the rotations of all inputs, dense matrices",
    mergeable=True,
    best_for="updates that keep the angles between neurons",
    source="Liu et al. 2024, arXiv 2311.06243; merging: peft, tuners/boft/layer.py, Linear.merge",
    peft_type="BOFT",
    config_class="BOFTConfig",
    default_targets=DEFAULT_TARGETS,
    refuses_unmerged="the rotations of each pass are not counted",
)
