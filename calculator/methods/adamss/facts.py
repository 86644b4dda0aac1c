"""The facts about AdaMSS."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

FACTS = in_plain_steps(
    shardings=("zero1", "zero2"),
    buffers_like="base",
    label="AdaMSS",
    summary="AdaMSS (adaptive multi-subspaces): a low-rank update for each cluster of a weight's rows.",
    trainable="subspace_rank · (num_subspaces · r + out_features) per adapted matrix",
    inference_overhead="none once merged; unmerged, a product with r rows and two thin ones for each subspace",
    mergeable=True,
    best_for="few trained parameters, in directions that each weight has",
    source="peft, tuners/adamss/layer.py, Linear.forward and merge",
    peft_type="ADAMSS",
    config_class="AdamssConfig",
    default_targets=DEFAULT_TARGETS | {"vit": ("query", "value")},
    refuses_unmerged="the products of each token with the subspaces are not counted",
)
