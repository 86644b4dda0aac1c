"""Full fine-tuning that trains some layers at a time: BAdam and LISA. Its refusals, and its sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.methods.full import badam, lisa

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.methods.full.method import Full

#: The settings of BAdam that have no effect without it, with their defaults.
_OF_BADAM = {
    "badam_mode": "layer",
    "badam_switch_mode": "ascending",
    "badam_switch_interval": 50,
    "badam_start_block": None,
    "include_embedding": False,
    "include_lm_head": False,
}

_ONE_OF_BOTH = "BAdam and LISA cannot be used together: set it false, or leave lisa_n_layers out"


def problems(method: Full, model: Model) -> Iterator[Problem]:
    """Yield settings that exclude each other, and those that the libraries refuse."""
    if not method.use_badam:
        for name, default in _OF_BADAM.items():
            if (value := getattr(method, name)) != default:
                message = "is a setting of BAdam: set use_badam, or leave it out"
                yield Problem(loc=f"method.{name}", msg=message, input=value)
    elif method.lisa_n_layers is not None:
        yield Problem(loc="method.use_badam", msg=_ONE_OF_BOTH, input=True)
        return
    if not method.trains_active_layers:
        return
    if method.unfrozen_parameters != method.active_patterns(model):
        message = f"{method.title} chooses the trained parameters itself: leave it out"
        yield Problem(loc="method.unfrozen_parameters", msg=message, input=[*(method.unfrozen_parameters or ())])
    if method.unfrozen_dtype != "model":
        message = f"{method.title} trains parameters in the model's dtype: use model"
        yield Problem(loc="method.unfrozen_dtype", msg=message, input=method.unfrozen_dtype)
    if method.lisa_n_layers is not None:
        yield from lisa.problems(method.lisa_n_layers, model)
    else:
        yield from badam.problems(method, model)


def assumptions(method: Full) -> tuple[str, ...]:
    """Return the assumptions about which layers are trained in the step."""
    if method.use_badam:
        return tuple(_badam_sentences(method))
    sentence = (
        f"LISA trains {method.lisa_n_layers} layers at a time, drawn at random, and all weights outside the layers. The"
        " figures are for the layers with the most parameters, and for the last ones if several have as many. The"
        " optimizer keeps the states of every layer that was ever drawn. The figures are for a late step, which has the"
        " states of full fine-tuning. Of the layers, only those drawn have gradients."
    )
    return (sentence,)


def _badam_sentences(method: Full) -> Iterator[str]:
    block = (
        f"block {method.badam_start_block}, which never changes"
        if method.badam_switch_mode == "fixed"
        else "the block with the most parameters, and for the first one if several have as many"
    )
    yield (
        f"BAdam (BlockOptimizer) trains one block at a time. The figures are for {block}. The optimizer updates"
        " float32 copies of the block's parameters, and gradients are cast to float32 one by one. When the block"
        " changes, the old copies and states are alive until the new copies exist. Every step empties the allocator's"
        " cache."
    )
    if method.badam_switch_interval == 1:
        yield "The block changes in every step, so no step begins with states of the optimizer."
