"""The facts about TinyLoRA."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

FACTS = in_plain_steps(
    shardings=("zero1", "zero2"),
    buffers_like="adapters",
    label="TinyLoRA",
    summary="TinyLoRA: a few numbers that mix random matrices between the singular vectors of a frozen weight.",
    trainable="u per adapted matrix; u in all with weight_tying 1",
    inference_overhead="none once merged; unmerged, three thin products per adapted matrix",
    mergeable=True,
    best_for="reinforcement learning with as few as one trained number",
    source="peft, tuners/tinylora/layer.py, Linear.forward and merge",
    peft_type="TINYLORA",
    config_class="TinyLoraConfig",
    default_targets=DEFAULT_TARGETS,
    refuses_unmerged="mixing the random matrices is not counted",
)
