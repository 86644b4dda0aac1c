"""The facts about trainable tokens."""

from calculator.methods.facts import in_plain_steps

FACTS = in_plain_steps(
    label="Trainable tokens",
    shardings=("ddp", "fsdp", "zero1", "zero2", "zero3"),
    summary="Trainable tokens: rows of the word embeddings that are trained in place of the frozen ones.",
    trainable="hidden_size per token",
    inference_overhead="none once merged; unmerged, each pass copies the whole table",
    mergeable=True,
    best_for="new or special tokens",
    source="peft, tuners/trainable_tokens/layer.py, TrainableTokensLayer.get_merged_weights",
    peft_type="TRAINABLE_TOKENS",
    config_class="TrainableTokensConfig",
    refuses_unmerged="the copy of the table for each token is not counted",
)
