"""The facts about bottleneck adapters."""

from calculator.methods.facts import CandidateSizes, MethodFacts

FACTS = MethodFacts(
    label="Adapters",
    summary="Bottleneck adapters (Houlsby et al. 2019; Pfeiffer et al. 2020).",
    trainable="2 · d · r + r + d per adapter",
    inference_overhead="two small products per adapter: 2 to 3 % at large batches, 20 to 30 % at batch 1",
    mergeable=False,
    best_for="many tasks on one untouched base",
    source="Houlsby et al. 2019, arXiv 1902.00751, section 2.1; latency: Hu et al. 2021, arXiv 2106.09685, table 1",
    quality_tier=1,
    candidate_sizes=CandidateSizes(setting="bottleneck_size", usual=(64, 32, 16), smaller=(8, 4, 2, 1)),
    forward_operations=2,
    backward_operations=4,
)
