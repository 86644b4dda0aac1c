"""Reasons that come from what a method was measured to learn and to forget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.methods.low_rank.method import LowRank
from calculator.methods.prompt.facts import LARGE_MODEL
from calculator.planning.reasons.reason import Evaluation, Reason, millions, percent, speaks_against, speaks_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.common.names import MethodName


def quality_reasons(evaluation: Evaluation) -> Iterator[Reason]:
    """Yield measurements of what the method learns and forgets."""
    if evaluation.method.name in QUALITY:
        yield from QUALITY[evaluation.method.name](evaluation)


def _full(evaluation: Evaluation) -> Iterator[Reason]:
    base = millions(evaluation.answer.parameters.base)
    yield speaks_for("learns_less", f"Learns most: all {base} parameters are trained.")
    yield speaks_against("forgets_less", "Trains 100 %, and forgets more of what the base knew than LoRA does.")


def _low_rank(evaluation: Evaluation) -> Iterator[Reason]:
    method, added = evaluation.method, millions(evaluation.answer.parameters.added)
    assert isinstance(method, LowRank)
    base, model = evaluation.evaluator.lora.base, evaluation.evaluator.model
    every = ["all-linear"] if base is None else ["all-linear", base.names(model)]
    if method.target_modules in every:
        yield speaks_for("all_linear", f"Adapts every linear layer at r {method.r}: {added} parameters.")
    else:
        yield speaks_against("all_linear", f"Adapts attention only, at r {method.r}: {added} parameters.")
    if method.r < 16:
        yield speaks_against("rank", f"r {method.r} is below 16, the usual start.")
    elif method.r > 16:
        yield speaks_for("rank", f"r {method.r} has more capacity than r 16, for more data than instructions.")
    yield speaks_for("forgets_less", _trains_little(evaluation))
    yield speaks_against("learns_less", "For continued pretraining (20 billion tokens) full fine-tuning learns more.")


def _trains_little(evaluation: Evaluation) -> str:
    share = percent(evaluation.answer.parameters.trainable_fraction)
    return f"Trains {share} of all parameters, and forgets less of what the base knew."


def _adapter(evaluation: Evaluation) -> Iterator[Reason]:  # noqa: ARG001
    yield speaks_against("adapter_quality", "Series adapters scored 70.8 where LoRA scored 74.7 (LLaMA-7B).")


def _prefix(evaluation: Evaluation) -> Iterator[Reason]:  # noqa: ARG001
    yield speaks_against("prefix_quality", "Prefixes scored 64.6 where LoRA scored 74.7 (LLaMA-7B).")


def _prompt(evaluation: Evaluation) -> Iterator[Reason]:
    base = evaluation.answer.parameters.base
    if base < LARGE_MODEL:
        sentence = f"With {millions(base)} parameters the model is below 10 billion, where prompt tuning falls behind."
        yield speaks_against("prompt_scale", sentence)
    else:
        yield speaks_for("prompt_scale", f"With {millions(base)} parameters the model is large enough for prompts.")


def _ia3(evaluation: Evaluation) -> Iterator[Reason]:
    added = millions(evaluation.answer.parameters.added)
    yield speaks_for("ia3_quality", f"Trains {added} parameters; with few examples it scored above full fine-tuning.")


def _ln_tuning(evaluation: Evaluation) -> Iterator[Reason]:
    added = millions(evaluation.answer.parameters.added)
    yield speaks_against(
        "ln_tuning_quality", f"Trains {added} parameters; it was measured on images with text, not on text alone."
    )


#: The function that gives the reasons of each method that plans try.
QUALITY: dict[MethodName, Callable[[Evaluation], Iterator[Reason]]] = {
    "full": _full,
    "lora": _low_rank,
    "qlora": _low_rank,
    "adapter": _adapter,
    "prefix": _prefix,
    "prompt": _prompt,
    "ia3": _ia3,
    "ln_tuning": _ln_tuning,
}
