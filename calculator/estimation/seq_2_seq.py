"""What of encoder-decoders is not modelled yet. Each refusal has a reason and a way out."""

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

#: Tied tables, which are modules of their own in each stack.
TABLES = ("shared", "embed_tokens")

#: The table of T5's position biases.
BIASES = "relative_attention_bias"


def problems(request: Request, model: Model) -> Iterator[Problem]:
    """Yield every reason why a request for an encoder-decoder is refused."""
    training, method = request.training, request.method
    if training.attention != "sdpa":
        message = f"seq_2_seq_lm is modelled with sdpa only, not {training.attention}: use sdpa"
        yield Problem(loc="training.attention", msg=message, input=training.attention)
    if "float16" in (training.dtype, training.autocast):
        message = "encoder-decoders clamp float16 states by their values, which is not modelled: use bfloat16"
        yield Problem(loc="training.dtype", msg=message, input=training.dtype)
    if method.facts.quantizes_base and training.autocast is not None:
        message = "autocast over a 4-bit encoder-decoder is not modelled yet: leave autocast out, or use lora"
        yield Problem(loc="training.autocast", msg=message, input=training.autocast)
    if method.name == "adapter":
        message = f"{method.name} of encoder-decoders is not modelled yet: use lora or prompt"
        yield Problem(loc="method.name", msg=message, input=method.name)
    if model.config.get("pad_token_id", 0) is None:
        message = "is required to make the decoder's input from the labels: give a token's number"
        yield Problem(loc="model.config.pad_token_id", msg=message, input=None)
    yield from _tables(method)
    if model.model_type == "t5":
        yield from _position_biases(request, model)


def _tables(method: Method) -> Iterator[Problem]:
    """Targets and copies of tied tables."""
    for field, names in _named(method):
        tables = sorted(set(TABLES).intersection(names))
        if tables:
            message = f"{', '.join(tables)} of an encoder-decoder is not modelled here: leave it out"
            yield Problem(loc=f"method.{field}", msg=message, input=list(names))


def _position_biases(request: Request, model: Model) -> Iterator[Problem]:
    """What trains T5's position biases, and what gives them a gradient."""
    training, method = request.training, request.method
    if method.facts.trains_base or method.facts.quantizes_base:
        message = f"{method.name} of t5 is not modelled yet: use lora, prompt, ia3 or ln_tuning"
        yield Problem(loc="method.name", msg=message, input=method.name)
    if training.gradient_checkpointing:
        message = "checkpointing gives T5's position biases a gradient, which is not modelled yet: use false"
        yield Problem(loc="training.gradient_checkpointing", msg=message, input=True)
    if training.autocast is not None:
        message = "autocast of t5 is not modelled yet: leave it out, or set dtype"
        yield Problem(loc="training.autocast", msg=message, input=training.autocast)
    path = next(path for path, _ in model.paths if path.endswith(BIASES))
    for field, names in _named(method):
        if is_named(path, names) or (field == "modules_to_save" and is_saved(path, names)):
            message = f"the gradient of {BIASES} is not modelled yet: name other modules"
            yield Problem(loc=f"method.{field}", msg=message, input=list(names))


def _named(method: Method) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the settings of a method that name modules, with the names."""
    for field in ("target_modules", "modules_to_save"):
        names = getattr(method, field, None)
        if isinstance(names, tuple):
            yield field, names
