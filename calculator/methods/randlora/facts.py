"""The facts about RandLoRA."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

FACTS = in_plain_steps(
    label="RandLoRA",
    shardings=("ddp", "fsdp", "zero1", "zero2"),
    buffers_like="adapters",
    mixes_buffers=True,
    summary="RandLoRA (Albert et al. 2025): an update of full rank from scaled random matrices that all layers share.",
    trainable="r · n + n · min(in_features, out_features) per adapted matrix, with n = min(in, out) / r bases",
    inference_overhead="none once merged; unmerged, two products of full rank per adapted matrix",
    mergeable=True,
    best_for="updates of full rank with as many parameters as LoRA",
    source="Albert et al. 2025, arXiv 2502.00987; merging: peft, tuners/randlora/layer.py, Linear.merge",
    peft_type="RANDLORA",
    config_class="RandLoraConfig",
    default_targets=DEFAULT_TARGETS,
    forward_operations=2,
    backward_operations=4,
)
