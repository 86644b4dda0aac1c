"""The facts about BEFT."""

from calculator.methods.beft.targets import DEFAULT_TARGETS
from calculator.methods.facts import in_plain_steps

FACTS = in_plain_steps(
    label="BEFT",
    shardings=("ddp", "fsdp", "zero1", "zero2", "zero3"),
    summary="BEFT (bias-efficient fine-tuning): a bias added to the outputs of linear layers.",
    trainable="out_features per adapted matrix",
    inference_overhead="one elementwise sum per adapted matrix; none once merged into a bias that the layer has",
    mergeable=True,
    best_for="the fewest parameters",
    source="peft, tuners/beft/layer.py, Linear.forward",
    peft_type="BEFT",
    config_class="BeftConfig",
    default_targets=DEFAULT_TARGETS,
    forward_operations=1,
    backward_operations=1,
)
