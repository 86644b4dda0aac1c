"""The facts about QLoRA."""

from calculator.methods.facts import MethodFacts
from calculator.methods.low_rank.candidates import RANKS
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

FACTS = MethodFacts(
    label="QLoRA",
    summary="QLoRA (Dettmers et al. 2023): LoRA over a base stored in 4 bits.",
    trainable="r · (in_features + out_features) per adapted matrix",
    inference_overhead="none once merged; served in 4 bits, each product dequantizes its weight first",
    mergeable=True,
    best_for="models whose 16-bit weights do not fit the GPU",
    source="Dettmers et al. 2023, arXiv 2305.14314, section 3; merging into 4 bits rounds again:"
    " peft, tuners/lora/bnb.py, Linear4bit.merge",
    quality_tier=0,
    candidate_sizes=RANKS,
    peft_type="LORA",
    config_class="LoraConfig",
    default_targets=DEFAULT_TARGETS,
    quantizes_base=True,
    forward_operations=2,
    backward_operations=4,
)
