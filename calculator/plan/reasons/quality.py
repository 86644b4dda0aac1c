"""Reasons that come from what a method was measured to learn and to forget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.methods.low_rank.method import LowRank
from calculator.methods.prompt.facts import LARGE_MODEL
from calculator.plan.reasons.reason import Judged, Reason, millions, percent, speaks_against, speaks_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.common.names import MethodName


def quality(judged: Judged) -> Iterator[Reason]:
    """What the method was measured to learn and to forget."""
    yield from QUALITY[judged.method.name](judged)


def _full(judged: Judged) -> Iterator[Reason]:
    base = millions(judged.answer.parameters.base)
    yield speaks_for("learns_less", f"Learns most: all {base} parameters are trained.")
    yield speaks_against("forgets_less", "Trains 100 %, and forgets more of what the base knew than LoRA does.")


def _low_rank(judged: Judged) -> Iterator[Reason]:
    method, added = judged.method, millions(judged.answer.parameters.added)
    assert isinstance(method, LowRank)
    if method.target_modules == "all-linear":
        yield speaks_for("all_linear", f"Adapts every linear layer at r {method.r}: {added} parameters.")
    else:
        yield speaks_against("all_linear", f"Adapts attention only, at r {method.r}: {added} parameters.")
    if method.r < 16:
        yield speaks_against("rank", f"r {method.r} is below the 16 to begin with.")
    elif method.r > 16:
        yield speaks_for("rank", f"r {method.r} holds more than r 16 does, for more data than instructions.")
    yield speaks_for("forgets_less", _trains_little(judged))
    yield speaks_against("learns_less", "For continued pretraining (20 billion tokens) full fine-tuning learns more.")


def _trains_little(judged: Judged) -> str:
    share = percent(judged.answer.parameters.trainable_fraction)
    return f"Trains {share} of all parameters, and forgets less of what the base knew."


def _adapter(judged: Judged) -> Iterator[Reason]:  # noqa: ARG001
    yield speaks_against("adapter_quality", "Series adapters scored 70.8 where LoRA scored 74.7 (LLaMA-7B).")


def _prefix(judged: Judged) -> Iterator[Reason]:  # noqa: ARG001
    yield speaks_against("prefix_quality", "Prefixes scored 64.6 where LoRA scored 74.7 (LLaMA-7B).")


def _prompt(judged: Judged) -> Iterator[Reason]:
    base = judged.answer.parameters.base
    if base < LARGE_MODEL:
        sentence = f"With {millions(base)} parameters the model is below the 10 billion where prompts keep up."
        yield speaks_against("prompt_scale", sentence)
    else:
        yield speaks_for("prompt_scale", f"With {millions(base)} parameters the model is large enough for prompts.")


#: What gives each method's reasons.
QUALITY: dict[MethodName, Callable[[Judged], Iterator[Reason]]] = {
    "full": _full,
    "lora": _low_rank,
    "qlora": _low_rank,
    "adapter": _adapter,
    "prefix": _prefix,
    "prompt": _prompt,
}
