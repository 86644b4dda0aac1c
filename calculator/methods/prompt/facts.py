"""The facts about prompt tuning."""

from calculator.methods.facts import MethodFacts
from calculator.methods.virtual_tokens.candidates import TOKENS

#: The number of parameters from which on prompt tuning is as good as full fine-tuning. Source: rule prompt_scale.
LARGE_MODEL = 10_000_000_000

FACTS = MethodFacts(
    label="Prompt tuning",
    summary="Prompt tuning (Lester et al. 2021): learned embeddings in front of the input.",
    trainable="p · hidden_size",
    inference_overhead="its virtual tokens lengthen every input",
    mergeable=False,
    best_for="large models, from about 10 billion parameters",
    source="Lester et al. 2021, arXiv 2104.08691, section 3.2",
    quality_tier=2,
    candidate_sizes=TOKENS,
    peft_type="PROMPT_TUNING",
    config_class="PromptTuningConfig",
    always_float32=True,
    lengthens_input=True,
    # Checked with peft 0.21.2 and transformers 5.24.0: tests/validation/comparison/test_generate.py.
    generate_caveat="PEFT 0.21 adds its prompt before every token that generate makes under transformers 5.24, not"
    " only before the first. The figures are for PeftModel's own forward over the prompt, and the model's for each"
    " token.",
)
