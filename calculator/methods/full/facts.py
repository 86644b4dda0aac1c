"""The facts about full fine-tuning."""

from calculator.methods.facts import MethodFacts

FACTS = MethodFacts(
    label="Full fine-tuning",
    summary="Full fine-tuning: every weight is trained.",
    trainable="every weight",
    inference_overhead="none",
    mergeable=None,
    best_for="pre-training, and changes too large for an added module",
    source="the base model itself is what is trained; where low-rank updates learn less: Biderman et al. 2024,"
    " arXiv 2405.09673, abstract",
    quality_tier=0,
    trains_base=True,
)
