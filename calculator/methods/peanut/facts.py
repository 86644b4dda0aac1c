"""The facts about PEANuT."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

FACTS = in_plain_steps(
    label="PEANuT",
    shardings=("ddp", "zero1", "zero2"),
    summary="PEANuT: an update that a small trained network computes from the frozen weight.",
    trainable="2 · r · out_features + 2 · depth · r² per adapted matrix",
    inference_overhead="none once merged; unmerged, each pass computes the dense update of every adapted matrix",
    mergeable=True,
    best_for="updates that are not linear in few parameters",
    source="peft, tuners/peanut/layer.py, Linear.forward and get_delta_weight",
    peft_type="PEANUT",
    config_class="PeanutConfig",
    default_targets=DEFAULT_TARGETS,
    refuses_unmerged="the dense update of each token is not counted",
)
