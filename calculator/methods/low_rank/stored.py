"""Bases that bitsandbytes stores in 4 or 8 bits: what of them can't be trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import refusal
from calculator.methods.targeted.modules_to_save import is_saved
from calculator.resident.quantization import converted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.inputs.training import Training
    from calculator.methods.low_rank.method import LowRank

#: The threshold of outliers. Source: transformers/utils/quantization_config.py, BitsAndBytesConfig.
NO_OUTLIERS = (
    "LLM.int8() is counted for inputs without outliers (no value of 6.0 or more, llm_int8_threshold). Each layer keeps,"
    " for each column of its input that has one, that column in the input's dtype."
)

#: What checkpointing leaves of a base in 8 bits. Source: bitsandbytes/autograd/_functions.py, MatMul8bitLt.forward.
KEPT_INPUTS = (
    "bitsandbytes keeps the input of every layer in 8 bits until the graph is freed, where gradient checkpointing with"
    " use_reentrant=False does not see it. A base in 4 bits (qlora) keeps none."
)

#: Biases that are counted in another dtype. Source: bitsandbytes/nn/modules.py, Linear8bitLt.forward.
CAST_BIASES = (
    "Under autocast, bitsandbytes casts the bias of each layer in 8 bits to the dtype of the layer's input. The figures"
    " count all of them in the dtype of the embeddings, which differs by some kilobytes."
)


def warnings(model: Model, training: Training) -> Iterator[str]:
    """Risks of a base in 8 bits."""
    if training.gradient_checkpointing and not training.use_reentrant:
        yield KEPT_INPUTS
    biased = any(module.bias is not None and converted(path, module, model) for path, module in model.paths)
    if training.autocast is not None and biased:
        yield CAST_BIASES


def check(method: LowRank, model: Model, bits: str) -> None:
    """Refuse modules to save that are stored in so many bits.

    Raises:
        PlanError: with their names.
    """
    if not method.modules_to_save:
        return
    packed = {name for path, module in model.paths for name in _saved(method, path, module, model)}
    if packed:
        names = " and ".join(sorted(packed))
        message = f"{names} is stored in {bits}, which can't be trained: adapt it as a target instead, or leave it out"
        raise refusal("method.modules_to_save", message, list(method.modules_to_save or ()))


def _saved(method: LowRank, path: str, module: Module, model: Model) -> tuple[str, ...]:
    """The names in `modules_to_save` that match a module, where that is packed."""
    names = method.modules_to_save if method.is_saved(path) and converted(path, module, model) else None
    return tuple(name for name in names or () if is_saved(path, (name,)))
