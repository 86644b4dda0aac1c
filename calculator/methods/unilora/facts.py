"""The facts about UniLoRA."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

FACTS = in_plain_steps(
    shardings=("zero1", "zero2"),
    buffers_like="adapters",
    label="UniLoRA",
    summary="UniLoRA (Li et al. 2025): low-rank updates whose elements are looked up in one trained vector.",
    trainable="theta_d_length for the whole model",
    inference_overhead="none once merged; unmerged, the factors are looked up in each pass",
    mergeable=True,
    best_for="the smallest number of trained parameters",
    source="Li et al. 2025, arXiv 2506.00799; merging: peft, tuners/unilora/layer.py, Linear.merge",
    peft_type="UNILORA",
    config_class="UniLoraConfig",
    default_targets=DEFAULT_TARGETS,
    refuses_unmerged="looking the factors up is not counted",
)
