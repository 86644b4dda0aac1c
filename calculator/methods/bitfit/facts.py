"""The facts about BitFit."""

from calculator.methods.facts import in_plain_steps

FACTS = in_plain_steps(
    label="BitFit",
    shardings=("zero3",),
    summary="BitFit (Ben Zaken et al. 2021): only the biases are trained, every parameter whose name ends in bias.",
    trainable="every bias",
    inference_overhead="none",
    mergeable=None,
    best_for="models with biases, such as BERT, OPT or GPT-2, and small data",
    source="Ben Zaken, Ravfogel & Goldberg 2021, arXiv 2106.10199",
    trains_base=True,
    trains_part=True,
)
