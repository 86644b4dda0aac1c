"""The models for which older releases of transformers were compared with the calculator, and what is refused there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.inputs.stack import DEFAULT_STACK
from calculator.stack.changes import older_behaviour
from calculator.stack.releases import dotted, release

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from calculator.inputs.stack import StackVersions
    from calculator.stack.releases import Release

#: The first release of transformers that was compared, by model type.
FIRST: dict[str, Release] = {
    "llama": (4, 45),
    "mistral": (4, 45),
    "qwen2": (4, 45),
}

#: The methods that need nothing of transformers but its modules.
METHODS = ("full", "lora", "qlora", "adapter", "ia3")

#: Rotary types whose frequencies never change, so that older releases keep one buffer.
CONSTANT = ("default", "linear", "llama3", "yarn")

_LOC = "stack.transformers"


def problems(
    versions: StackVersions, model_type: str | None, config: Mapping[str, Any], method: str, tokens: int
) -> Iterator[Problem]:
    """Yield why an older transformers cannot be answered for a model, a method and a sequence of tokens."""
    if release(versions.transformers)[:2] == release(DEFAULT_STACK.transformers):
        return
    for message in _messages(versions, model_type, config, method, tokens):
        yield Problem(loc=_LOC, msg=f"{message}: use {DEFAULT_STACK.transformers}", input=versions.transformers)


def _messages(
    versions: StackVersions, model_type: str | None, config: Mapping[str, Any], method: str, tokens: int
) -> Iterator[str]:
    own = f"transformers {versions.transformers}"
    first = FIRST.get(model_type or "")
    if first is None or release(versions.transformers)[:2] < first:
        since = f"; from {dotted(first)} on they are known" if first else ""
        yield f"what {own} does for {model_type} is not known{since}"
    if method not in METHODS:
        yield f"how {own} runs the virtual tokens of {method} is not known"
    rotary = (config.get("rope_parameters") or {}).get("rope_type", "default")
    if rotary not in CONSTANT:
        yield f"the rotary buffers of rope_type {rotary} in {own} are not known"
    window = config.get("sliding_window")
    windowed = "sliding_attention" in (config.get("layer_types") or ())
    if "float_masks" in older_behaviour(versions) and windowed and window is not None and tokens >= window:
        yield f"the masks of {own} for {tokens:,} tokens and a sliding window of {window:,} are not known"
