"""The facts about LoRA."""

from calculator.methods.facts import MethodFacts
from calculator.methods.low_rank.candidates import RANKS
from calculator.methods.targeted.default_targets import DEFAULT_TARGETS

FACTS = MethodFacts(
    label="LoRA",
    summary="LoRA (Hu et al. 2021): a low-rank update of frozen weights.",
    trainable="r · (in_features + out_features) per adapted matrix",
    inference_overhead="none once merged; unmerged, two thin products per adapted matrix",
    mergeable=True,
    best_for="most fine-tuning",
    source="Hu et al. 2021, arXiv 2106.09685, section 4.1, No Additional Inference Latency",
    quality_tier=0,
    candidate_sizes=RANKS,
    peft_type="LORA",
    config_class="LoraConfig",
    default_targets=DEFAULT_TARGETS,
    forward_operations=2,
    backward_operations=4,
)
