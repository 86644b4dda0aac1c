"""The facts about DEFT."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

FACTS = in_plain_steps(
    label="DEFT",
    shardings=("ddp", "fsdp", "zero1", "zero2", "zero3"),
    summary="DEFT: a trained low-rank part replaces one of the frozen product.",
    trainable="r · (in_features + out_features) per adapted matrix; r · out_features with para",
    inference_overhead="none once merged; unmerged, thin products in float32 per adapted matrix",
    mergeable=True,
    best_for="replacing what the base model knows",
    source="peft, tuners/deft/layer.py, DeftLinear.forward and get_delta_weight",
    peft_type="DEFT",
    config_class="DeftConfig",
    default_targets=DEFAULT_TARGETS,
    refuses_unmerged="the products in float32 are not counted",
    forward_operations=4,
    backward_operations=8,
)
