"""Published runs on several GPUs: one rank's memory under FSDP, DistributedDataParallel and ZeRO.

Full fine-tuning under FSDP1 peaks in the optimizer's step, where FSDP1 and FSDP2 keep the same: the rank's weights,
gradients and optimizer states, and a foreach step's temporaries. The other rows have no request, with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from validation.published.measurement import Run, measurement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.published.measurement import Measurement, Statistic
    from validation.published.source import Row, Source

GIB = 1 << 30

#: Short enough for the optimizer's step to be the peak, as the measured figures are for every batch size.
TOKENS = 512

FSDP1 = "FSDP1, with other units: the peak is in the optimizer's step, where both versions keep the same"
LENGTH = f"the longest sequence is not stated: {TOKENS} tokens, because the optimizer's step does not depend on it"
FLOAT32 = "the weights' dtype in memory is not stated: float32"
TORCHTITAN = "torchtitan's own model and wrapping, and reserved memory under FSDP is by a rule"
COMMENT = "a comment in a script, rounded, that does not state how it was read"

#: The field of each figure, its statistic, and its unit in bytes.
FIGURES: dict[str, tuple[Statistic, int]] = {
    "peak_allocated_bytes": ("max_memory_allocated", 1),
    "reserved_GiB": ("max_memory_reserved", GIB),
    "GiB_per_gpu": ("unstated", GIB),
}


def measurements(source: Source) -> Iterator[Measurement]:
    """One figure of each row."""
    for row in source.rows:
        ((field, (statistic, unit)),) = ((name, kind) for name, kind in FIGURES.items() if name in row["measured"])
        setting = f"{row['num_gpus']} GPUs, {row['sharding']}"
        yield measurement(source, row, statistic, row["measured"][field] * unit, _run(row), setting=setting)


def _run(row: Row) -> Run:
    if row["sharding"].startswith("FSDP1"):
        unknown = (LENGTH,) if "weights" in row else (LENGTH, FLOAT32)
        return Run(request=_request(row), differs=(FSDP1,), unknown=unknown)
    return Run(differs=(TORCHTITAN if "torchtitan" in row["sharding"] else COMMENT,))


def _request(row: Row) -> dict[str, Any]:
    return {
        "model": row["model"],
        "method": {"name": row["method"]},
        "training": {
            "micro_batch_size": int(row["batch_size"]),
            "sequence_length": TOKENS,
            "dtype": row.get("weights", "float32"),
            "gradient_checkpointing": row["gradient_checkpointing"],
        },
        "device": {"gpu": "a100-sxm4-80gb", "count": row["num_gpus"], "sharding": "fsdp"},
    }
