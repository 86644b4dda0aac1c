"""The benchmark of the package vramcalc: steps of its own script on an RTX A6000.

The script sets `use_cache` to false, and zeroes gradients instead of dropping them: they are alive in the next step, as
in a second micro-batch. It refers to the model's output, with its logits, until the backward pass is over: the protocol
`output_in_backward`. Source: vramcalc 0.1.2, src/vramcalc/bench.py, _measure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator import catalogue
from validation.published.measurement import Run, measurement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.published.measurement import Measurement
    from validation.published.source import Row, Source

#: The modules that the script adapts.
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]

#: Why estimates of Qwen2.5 are low, whose MLP's tensors of 35 MiB have blocks of 36 MiB.
WHOLE_BLOCKS = (
    "what was read counts whole blocks, and a block is not split if at most 1 MiB of it is left; with whole"
    " blocks, the replay is within 0.1 %"
)


def measurements(source: Source) -> Iterator[Measurement]:
    """Yield the most bytes allocated, one figure per row."""
    for row in source.rows:
        run = _pass(row) if row["method"] == "inference" else Run(request=_request(row), protocol="output_in_backward")
        parts = (
            row["attention"],
            "autocast" if row["autocast"] else "",
            "checkpointing" if row["gradient_checkpointing"] else "",
        )
        setting = ", ".join(filter(None, parts))
        remark = WHOLE_BLOCKS if row["model"].startswith("Qwen/") and row["method"] != "inference" else ""
        yield measurement(
            source, row, "max_memory_allocated", row["measured"]["bytes"], run, setting=setting, remark=remark
        )


def _pass(row: Row) -> Run:
    """Return one call of the model with a cache, without labels."""
    request = _request({**row, "method": "full"})
    request["model"]["config"]["use_cache"] = True
    return Run(request=request, protocol="logits")


def _request(row: Row) -> dict[str, Any]:
    lora = {"r": row.get("rank"), "target_modules": TARGETS} if row["method"] == "lora" else {}
    return {
        "model": {"config": {**catalogue.model(row["model"]).config, "use_cache": False}},
        "method": {"name": row["method"], **lora},
        "training": {
            "micro_batch_size": row["batch_size"],
            "sequence_length": row["seq_len"],
            "dtype": "float32" if row["autocast"] else "bfloat16",
            "autocast": "bfloat16" if row["autocast"] else None,
            "gradient_checkpointing": row["gradient_checkpointing"],
            "gradient_accumulation_steps": 2,
            "max_grad_norm": None,
            "attention": row["attention"],
        },
        "device": {"gpu": "rtx-a6000"},
        "stack": {name: row["versions"][name] for name in ("transformers", "torch")},
    }
