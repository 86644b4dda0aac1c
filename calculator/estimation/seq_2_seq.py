"""Checks for encoder-decoders that are not modeled yet.

Each refusal gives a reason and an alternative.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.methods.targeted.matching import is_named
from calculator.methods.targeted.modules_to_save import is_saved

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.estimation.request import Request
    from calculator.methods import Method

#: Tied embedding tables, each of which is a module of its own in both stacks.
TABLES = ("shared", "embed_tokens")

#: The module of T5's position biases.
BIASES = "relative_attention_bias"


def problems(request: Request, model: Model) -> Iterator[Problem]:
    """Yield every reason why a request for an encoder-decoder is refused."""
    training, method = request.training, request.method
    if training.attention != "sdpa":
        message = f"seq_2_seq_lm is modeled with sdpa only, not {training.attention}: use sdpa"
        yield Problem(loc="training.attention", msg=message, input=training.attention)
    if training.dtype == "float16":
        message = "encoder-decoders clamp float16 states by their values, which is not modeled: use bfloat16, or "
        message += "float32 with autocast float16 (fp16=True)"
        yield Problem(loc="training.dtype", msg=message, input=training.dtype)
    if training.gradient_checkpointing and training.use_reentrant:
        message = "re-entrant checkpoints of a decoder that reads an encoder's states are not modeled: use false"
        yield Problem(loc="training.gradient_checkpointing_kwargs.use_reentrant", msg=message, input=True)
    if model.config.get("pad_token_id", 0) is None:
        message = "is required to make the decoder's input from the labels: set it to the id of a token"
        yield Problem(loc="model.config.pad_token_id", msg=message, input=None)
    yield from _tables(method)
    yield from _position_biases(method, model)


def _tables(method: Method) -> Iterator[Problem]:
    """Yield method settings that target or copy tied tables."""
    for field, names in _named(method):
        tables = sorted(set(TABLES).intersection(names))
        if tables:
            message = f"{', '.join(tables)} of an encoder-decoder is not modeled here: leave it out"
            yield Problem(loc=f"method.{field}", msg=message, input=list(names))


def _position_biases(method: Method, model: Model) -> Iterator[Problem]:
    """Yield method settings that target or copy T5's position biases."""
    for path in (path for path, _ in model.paths if path.endswith(BIASES)):
        for field, names in _named(method):
            if is_named(path, names) or (field == "modules_to_save" and is_saved(path, names)):
                message = f"an adapter or a copy of {BIASES} is not modeled: name other modules, or use full"
                yield Problem(loc=f"method.{field}", msg=message, input=list(names))
        return


def _named(method: Method) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the settings of a method that name modules, with these names."""
    for field in ("target_modules", "modules_to_save"):
        names = getattr(method, field, None)
        if isinstance(names, tuple):
            yield field, names
