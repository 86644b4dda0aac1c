"""The facts about OSF."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.osf.targets import DEFAULT_TARGETS

FACTS = in_plain_steps(
    shardings=("zero1", "zero2"),
    buffers_like="base",
    label="OSF",
    summary="OSF: the smaller singular values of each weight are trained, in directions that spare the larger ones.",
    trainable="(min(in_features, out_features) - effective_rank) · (in_features + out_features + 1) per adapted matrix",
    inference_overhead="none once merged; unmerged, two products per adapted matrix",
    mergeable=True,
    best_for="learning one task after another without forgetting",
    source="peft, tuners/osf/layer.py, Linear.forward and OSFLayer.merge",
    peft_type="OSF",
    config_class="OSFConfig",
    default_targets=DEFAULT_TARGETS,
    refuses_unmerged="the products of the factors are not counted",
    forward_operations=4,
    backward_operations=8,
)
