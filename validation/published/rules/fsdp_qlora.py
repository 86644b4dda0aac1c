"""Answer.AI's notebook: bytes allocated after each phase of a step of a small Llama with random weights.

Its loss is `logits.mean()`, and it has no optimizer step: the protocol `mean_of_logits`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from validation.published.measurement import Run, measurement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.published.measurement import Measurement, Point
    from validation.published.source import Row, Source

GB = 10**9

#: The notebook's LlamaConfig.
CONFIG = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}

POINTS: dict[str, Point] = {"after_model_GB": "loaded", "after_forward_GB": "forward", "after_backward_GB": "backward"}

DIFFERS = (
    "the stack of February 2024 (transformers 4.38), whose attention and 4-bit products save more",
    "rotary tables that every layer keeps, and the model's own causal mask",
    "a 16 GB GPU that is not named",
)


def measurements(source: Source) -> Iterator[Measurement]:
    """Yield the bytes allocated after each phase, and the peak of rows that state it."""
    for row in source.rows:
        run, setting = _run(row), f"{row['seq_len']} tokens"
        for key, point in POINTS.items():
            if key in row["measured"]:
                size = row["measured"][key] * GB
                yield measurement(source, row, "memory_allocated", size, run, setting=setting, point=point)
        if "max_allocated_GB" in row["measured"]:
            size = row["measured"]["max_allocated_GB"] * GB
            yield measurement(source, row, "max_memory_allocated", size, Run(differs=DIFFERS), setting=setting)


def _run(row: Row) -> Run:
    if "inference" in row["method"]:
        return Run(differs=("inference, no training step",))
    training = {
        "micro_batch_size": row["batch_size"],
        "sequence_length": row["seq_len"],
        "adapter_dtype": "model",
        "gradient_checkpointing": row["gradient_checkpointing"],
    }
    request = {"model": {"config": CONFIG}, "method": _method(row), "training": training}
    return Run(request=request, protocol="mean_of_logits", differs=DIFFERS)


def _method(row: Row) -> dict[str, Any]:
    if row["method"] == "full (base)":
        return {"name": "full"}
    lora = {"r": row["rank"], "lora_dropout": row["lora_dropout"], "target_modules": row["target_modules"]}
    if "QLoRA" not in row["method"]:
        return {"name": "lora", **lora}
    return {"name": "qlora", **lora, "double_quant": False, "prepare_model_for_kbit_training": False}
