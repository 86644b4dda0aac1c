"""The rules that turn each source's rows into requests: one module per source, with a function `measurements`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from validation.published.rules import (
    documents,
    fms_acceleration,
    fsdp_qlora,
    liger_kernel,
    litgpt,
    ms_swift,
    peft_metamathqa,
    qwen,
    several_gpus,
    torchtune,
    vramcalc,
)
from validation.published.source import sources

if TYPE_CHECKING:
    from validation.published.measurement import Measurement

RULES = {
    "documents": documents,
    "fms_acceleration": fms_acceleration,
    "fsdp_qlora": fsdp_qlora,
    "liger_kernel": liger_kernel,
    "litgpt": litgpt,
    "ms_swift": ms_swift,
    "peft_metamathqa": peft_metamathqa,
    "qwen": qwen,
    "several_gpus": several_gpus,
    "torchtune": torchtune,
    "vramcalc": vramcalc,
}


@cache
def measurements() -> tuple[Measurement, ...]:
    """Return every figure of every source."""
    return tuple(measurement for source in sources() for measurement in RULES[source.name].measurements(source))
