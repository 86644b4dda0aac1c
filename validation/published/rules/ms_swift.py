"""ms-swift's benchmark: Qwen-7B-Chat, whose model code is remote and not in transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from validation.published.measurement import Run, measurement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.published.measurement import Measurement
    from validation.published.source import Row, Source

REMOTE_CODE = "the model's own remote code (model_type qwen), which transformers does not have"


def measurements(source: Source) -> Iterator[Measurement]:
    """Yield the most bytes reserved, published in GiB with two decimals, summed over GPUs."""
    for row in source.rows:
        run = Run(differs=tuple(_differs(row)))
        yield measurement(source, row, "max_memory_reserved", row["measured"]["bytes"], run)


def _differs(row: Row) -> Iterator[str]:
    yield REMOTE_CODE
    if row["method"] == "GPTQ-LoRA":
        yield f"a base in {row['quantization']} with the kernels of auto-gptq: those of gptqmodel are modeled"
    if row["num_gpus"] > 1:
        yield f"layers split over {row['num_gpus']} GPUs"
