"""The facts about DeLoRA."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

FACTS = in_plain_steps(
    label="DeLoRA",
    shardings=("ddp", "fsdp", "zero1", "zero2"),
    buffers_like="adapters",
    summary="DeLoRA (Bini et al. 2025): a low-rank update of normalized vectors, with a trained strength.",
    trainable="r · (in_features + out_features) + 1 per adapted matrix",
    inference_overhead="none once merged; unmerged, two thin products and a scaling per adapted matrix",
    mergeable=True,
    best_for="training that stays near the base at high learning rates",
    source="Bini et al. 2025, arXiv 2503.18225; peft, tuners/delora/layer.py, DeloraLinear.forward",
    peft_type="DELORA",
    config_class="DeloraConfig",
    default_targets=DEFAULT_TARGETS,
    forward_operations=2,
    backward_operations=4,
)
