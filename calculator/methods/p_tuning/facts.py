"""The facts about P-tuning."""

from calculator.methods.facts import in_plain_steps
from calculator.methods.prompt.facts import FACTS as PROMPT

FACTS = in_plain_steps(
    label="P-tuning",
    shardings=("ddp", "fsdp", "zero1", "zero2", "zero3"),
    summary="P-tuning (Liu et al. 2021): embeddings in front of the input, which a small network computes.",
    trainable="p · hidden_size + the encoder: three layers of width h",
    inference_overhead="its virtual tokens lengthen every input",
    mergeable=False,
    best_for="understanding tasks with few labels",
    source="Liu et al. 2021, arXiv 2103.10385; peft, tuners/p_tuning/model.py, PromptEncoder",
    peft_type="P_TUNING",
    config_class="PromptEncoderConfig",
    always_float32=True,
    lengthens_input=True,
    generate_caveat=PROMPT.generate_caveat,
)
