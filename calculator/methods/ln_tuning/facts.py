"""The facts about LN Tuning."""

from calculator.methods.facts import MethodFacts
from calculator.methods.ln_tuning.targets import DEFAULT_TARGETS

FACTS = MethodFacts(
    label="LN Tuning",
    summary="LN Tuning (Zhao et al. 2023): copies of the norms, trained in full over a frozen base.",
    trainable="every parameter of each targeted module: d per RMS norm, 2 · d per layer norm",
    inference_overhead="none: the trained copy runs in place of the base's module",
    mergeable=True,
    best_for="adapting to a new domain or modality with very few parameters",
    source="Zhao et al. 2023, arXiv 2312.11420, abstract; merging: peft, tuners/ln_tuning/layer.py, merge",
    quality_tier=2,
    peft_type="LN_TUNING",
    config_class="LNTuningConfig",
    default_targets=DEFAULT_TARGETS,
    trains_copies=True,
    # A product and a sum for the copy's gradient. The rest is the base module's own work.
    backward_operations=2,
)
