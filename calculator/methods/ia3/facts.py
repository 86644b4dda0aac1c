"""The facts about IA³."""

from calculator.methods.facts import MethodFacts
from calculator.methods.ia3.targets import DEFAULT_TARGETS

FACTS = MethodFacts(
    label="IA³",
    summary="IA³ (Liu et al. 2022): learned vectors that scale the outputs, or inputs, of linear layers.",
    trainable="out_features per adapted matrix, in_features per feed-forward one",
    inference_overhead="none once merged; unmerged, one elementwise product per adapted matrix",
    mergeable=True,
    best_for="few examples per task, with the fewest parameters",
    source="Liu et al. 2022, arXiv 2205.05638, section 3.3; merging: peft, tuners/ia3/layer.py, Linear.merge",
    quality_tier=2,
    peft_type="IA3",
    config_class="IA3Config",
    default_targets=DEFAULT_TARGETS,
    # peft/tuners/ia3/bnb.py, Linear4bit.forward: its result stays in float32, while the queries are in half precision.
    refuses_4_bits="IA³ over a base in 4 bits is not modeled: PEFT's layers return float32 there, which attention"
    " refuses next to half precision",
    forward_operations=1,
    # One product for the input's gradient; a product and a sum for the vector's gradient.
    backward_operations=3,
)
