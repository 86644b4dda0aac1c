"""Answer.AI's notebook: bytes allocated after each phase of a step of a small Llama with random weights.

Its loss is `logits.mean()`, and it has no optimizer step: the protocol `mean_of_logits`. Its no-grad passes are the
protocol `output_of_pass`. The repository's README excludes transformers 4.38 and 4.39, and the figures have the buffers
of 4.37 and earlier: tables of all positions in every layer, and no causal mask. That Llama runs the step of Mistral
with transformers 4.39, which the request states.
Source: transformers 4.37.2, models/llama/modeling_llama.py; 4.39.3, models/mistral/modeling_mistral.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from validation.published.measurement import Run, measurement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.published.measurement import Measurement, Point, Protocol
    from validation.published.source import Row, Source

GB = 10**9

#: The notebook's LlamaConfig, as a Mistral without a window.
CONFIG = {
    "model_type": "mistral",
    "sliding_window": None,
    "hidden_size": 2048,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}

POINTS: dict[str, Point] = {"after_model_GB": "loaded", "after_forward_GB": "forward", "after_backward_GB": "backward"}

#: Mistral's release, and the oldest of bitsandbytes that a request can state. It is the first with `quant_storage`.
STACK = {"transformers": "4.39.3", "bitsandbytes": "0.43.1"}

UNKNOWN = (
    "releases, assumed to be transformers 4.37, whose Llama runs the step of Mistral with 4.39, and bitsandbytes 0.43",
    "a 16 GB GPU that is not named, assumed to have cuBLAS workspaces of 8.5 MB",
)

#: The allocator counts 2 MiB more than the tensors: two blocks of 126 MiB for embeddings of 125 MiB.
BLOCKS = "whole blocks: 126 MiB for the embeddings, and for the output head, of 125 MiB each"

NORMS = (
    "not known: 8 KiB a token, a second float32 tensor of the hidden states, for each norm in the graph. They are gone"
    " after the backward pass, and a step of transformers 4.37.2 with PyTorch 2.13 does not save them"
)

#: The rows of the last cell, which runs a no-grad pass of 512 tokens first.
AFTER_PASS = range(2431, 2435)
NO_GRAD_BEFORE = "the no-grad pass before leaves 15 MB, which are not known"


def measurements(source: Source) -> Iterator[Measurement]:
    """Yield the bytes allocated after each phase, and the peak of rows that state it."""
    for row in source.rows:
        run, setting = _run(row), f"{row['seq_len']} tokens"
        for key, point in POINTS.items():
            if key in row["measured"]:
                size, remark = row["measured"][key] * GB, _remark(row, point)
                yield measurement(
                    source, row, "memory_allocated", size, run, setting=setting, point=point, remark=remark
                )
        if "max_allocated_GB" in row["measured"]:
            size, remark = row["measured"]["max_allocated_GB"] * GB, _remark(row, "forward")
            yield measurement(source, row, "max_memory_allocated", size, run, setting=setting, remark=remark)


def _remark(row: Row, point: Point) -> str:
    """Return what explains the error."""
    known = [NO_GRAD_BEFORE] if row["id"] in AFTER_PASS else [BLOCKS]
    return "; ".join([NORMS, *known] if point == "forward" and "inference" not in row["method"] else known)


def _run(row: Row) -> Run:
    training = {
        "micro_batch_size": row["batch_size"],
        "sequence_length": row["seq_len"],
        "adapter_dtype": "model",
        "gradient_checkpointing": row["gradient_checkpointing"],
    }
    request = {"model": {"config": CONFIG}, "method": _method(row), "training": training, "stack": STACK}
    protocol: Protocol = "output_of_pass" if "inference" in row["method"] else "mean_of_logits"
    return Run(request=request, protocol=protocol, unknown=UNKNOWN, workspaces_before=row["workspaces_before"])


def _method(row: Row) -> dict[str, Any]:
    if "(base)" in row["method"]:
        return {"name": "full"}
    lora = {"r": row["rank"], "lora_dropout": row["lora_dropout"], "target_modules": row["target_modules"]}
    if "QLoRA" not in row["method"]:
        return {"name": "lora", **lora}
    return {"name": "qlora", **lora, "double_quant": False, "prepare_model_for_kbit_training": False}
