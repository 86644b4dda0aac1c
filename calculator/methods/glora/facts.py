"""The facts about GLoRA."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

FACTS = in_plain_steps(
    label="GLoRA",
    shardings=("zero1", "zero2"),
    summary="GLoRA (Chavan et al. 2023): trained paths that scale and shift a frozen weight and its bias.",
    trainable="2 · r · (in_features + out_features) per adapted matrix, and paths of its bias",
    inference_overhead="none once merged; unmerged, each pass computes every adapted weight",
    mergeable=True,
    best_for="layers with biases",
    source="Chavan et al. 2023, arXiv 2306.07967; peft, tuners/glora/layer.py, GloraLinear.forward and merge",
    peft_type="GLORA",
    config_class="GloraConfig",
    default_targets=DEFAULT_TARGETS,
    refuses_unmerged="the dense weight of each token is not counted",
)
