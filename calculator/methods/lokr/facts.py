"""The facts about LoKr."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

FACTS = in_plain_steps(
    label="LoKr",
    shardings=("ddp", "fsdp", "zero1", "zero2", "zero3"),
    summary="LoKr (Yeh et al. 2023): an update that is the Kronecker product of two small matrices, one of low rank.",
    trainable="a · c + r · (b + d) per adapted matrix of (a · b) × (c · d)",
    inference_overhead="none once merged; unmerged, each adapted matrix is multiplied with a dense update too",
    mergeable=True,
    best_for="updates of a higher rank than LoRA's with fewer parameters",
    source="Yeh et al. 2023, arXiv 2309.14859; merging: peft, tuners/lycoris_utils.py, LycorisLayer.merge",
    peft_type="LOKR",
    config_class="LoKrConfig",
    default_targets=DEFAULT_TARGETS,
    forward_operations=2,
    backward_operations=4,
)
