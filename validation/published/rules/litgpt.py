"""LitGPT's tables, of its own model code, attention and chunked loss, which no request can express."""

from __future__ import annotations

from typing import TYPE_CHECKING

from validation.published.measurement import Run, measurement

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.published.measurement import Measurement
    from validation.published.source import Row, Source

OWN_CODE = "LitGPT's own model code, with one fused projection for queries, keys and values"
CHUNKED = "head and loss in chunks of 128 tokens, so the logits' gradients never exist as a whole"
PAGED = "paged optimizer states, which torch does not count"


def measurements(source: Source) -> Iterator[Measurement]:
    """Yield the most bytes allocated, published in GB with two decimals."""
    for row in source.rows:
        run = Run(differs=tuple(_differs(row)))
        yield measurement(source, row, "max_memory_allocated", row["measured"]["bytes"], run, setting=row["file"])


def _differs(row: Row) -> Iterator[str]:
    yield OWN_CODE
    if row["method"] == "inference":
        yield "inference, no training step"
        return
    if row["method"] != "full":
        yield CHUNKED
    if row["method"].startswith("LLaMA-Adapter"):
        yield "a method that the calculator does not have"
    if "Paged" in str(row.get("optimizer")):
        yield PAGED
    if row.get("distributed") == "FSDP":
        yield f"FSDP over {row['num_gpus']} GPUs"
    elif row["num_gpus"] > 1:
        yield f"the table states {row['num_gpus']} GPUs, the text one"
    if row["quality"] != "exact config":
        yield "parts of the configuration are not stated"
