"""The facts about prefix tuning."""

from calculator.methods.facts import MethodFacts
from calculator.methods.virtual_tokens.candidates import TOKENS

FACTS = MethodFacts(
    label="Prefix tuning",
    summary="Prefix tuning (Li & Liang 2021): learned keys and values in every layer.",
    trainable="2 · p · (kv heads · head_dim) · layers",
    inference_overhead="its virtual tokens are attended to, and cached, in every layer",
    mergeable=False,
    best_for="steering generation, a task's prefix swapped per request",
    source="Li & Liang 2021, arXiv 2101.00190, section 4",
    quality_tier=2,
    candidate_sizes=TOKENS,
    peft_type="PREFIX_TUNING",
    config_class="PrefixTuningConfig",
    always_float32=True,
    refuses_checkpointing=True,
    masks_attention=True,
    # Checked with peft 0.21.2 and transformers 5.24.0: tests/validation/comparison/test_generate.py.
    generate_caveat="PEFT 0.21 passes its prefix to generate under a name that transformers 5.24 ignores: the text is"
    " generated without it. The figures are for PeftModel's own forward over the prompt, and the model's for each"
    " token.",
)
