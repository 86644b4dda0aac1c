"""Layers that run several times with the same base weights and with LoRA of their own: `layer_replication`.

PEFT clones the layers of each range before it adds LoRA. Clones share their parameters, and have buffers of their own.
Source: peft 0.21, tuners/tuners_utils.py, replicate_layers and clone_module.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.architecture.model import Layer, Stack
from calculator.common.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.methods.targeted.method import TargetedMethod

    #: Layers from the first number up to the second, which is not in it.
    Ranges = tuple[tuple[int, int], ...] | None

#: The names of lists of layers that PEFT finds: `layers` of the innermost `model`, or BERT's.
_FOUND = ("model.layers", "layers", "bert.encoder.layer", "encoder.layer")

#: The maximum number of layers that a model is given.
MOST_LAYERS = 1_000

#: Families whose forward pass, or whose cache, takes the type of a layer from the config, by its number.
_TYPES_BY_NUMBER = (
    "bamba", "cohere2", "cwm", "exaone4", "gemma2", "gemma3_text", "gpt_oss", "granitemoehybrid", "lfm2", "lfm2_moe",
    "llama4", "llama4_text", "ministral", "modernbert", "nemotron_h", "olmo3", "qwen2", "qwen2_moe", "qwen3",
    "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "smollm3",
)  # fmt: skip

#: Families whose layers read what layers of other numbers leave.
_NOT_MODELED = ("gemma4_text", "gemma4_unified_text", "jamba")


def with_replicated_layers(ranges: tuple[tuple[int, int], ...], model: Model) -> Model:
    """Return the model with the layers that `layer_replication` lists.

    Return the model itself if it has them already.
    """
    if model.replicated:
        return model
    stack, numbers = model.decoder, _numbers(ranges)
    copies: dict[Layer, Layer] = {}
    seen: set[int] = set()
    layers = []
    for number in numbers:
        layer = stack.layers[number]
        layers.append(copies.setdefault(layer, _sharing(layer)) if number in seen else layer)
        seen.add(number)
    replicated = Stack(name=stack.name, layers=tuple(layers))
    parts = tuple(replicated if part is stack else part for part in model.parts)
    return replace(model, parts=parts, replicated=True)


def _numbers(ranges: tuple[tuple[int, int], ...]) -> list[int]:
    return [number for first, end in ranges for number in range(first, end)]


def _sharing(layer: Layer) -> Layer:
    return replace(layer, modules=tuple(replace(module, shares_weights=True) for module in layer.modules))


def problems(method: TargetedMethod, ranges: Ranges, model: Model) -> Iterator[Problem]:
    """Yield models whose layers PEFT does not find, ranges outside the layers, and settings that are not modeled."""
    if ranges is None or model.replicated:
        return
    loc, given = "method.layer_replication", [list(range_) for range_ in ranges]
    stack = model.decoder
    if stack.name not in _FOUND or len(model.stacks) > 1:
        message = f"PEFT replicates the layers of a model's list named layers, and of BERT, not {stack.name}: leave it"
        yield Problem(loc=loc, msg=f"{message} out", input=given)
        return
    count = len(stack.layers)
    odd = next((span for span in given if not 0 <= span[0] < span[1] <= count), None)
    if odd is not None:
        message = f"is no range [first, end) of the {count} layers, numbered from 0: use [0, {count}]"
        yield Problem(loc=loc, msg=message, input=odd)
    elif sum(end - first for first, end in ranges) > MOST_LAYERS:
        yield Problem(loc=loc, msg=f"lists more than {MOST_LAYERS:,} layers: list fewer", input=given)
    elif (wrong := _types(model, _numbers(ranges))) is not None:
        yield Problem(loc=loc, msg=wrong, input=given)
    if method.quantizes_base:
        message = "over a quantized base is not modeled, since each copy has its own constants: use a base in 16 bits"
        yield Problem(loc=loc, msg=message, input=given)
    yield from _not_modeled(method)


def _types(model: Model, numbers: list[int]) -> str | None:
    """Return an error if the types of the layers do not allow the new order, or None."""
    if model.model_type in _NOT_MODELED:
        return f"is not modeled for {model.model_type}: leave it out"
    if model.model_type not in _TYPES_BY_NUMBER:
        return None
    layers = model.decoder.layers
    if len(numbers) > len(layers):
        count = f"{len(layers)} types, of which layer {len(layers):,} would have none"
        return f"the config of {model.model_type} has {count}: list at most {len(layers):,} layers, or leave it out"
    if any(layers[source].kind.attention != layers[at].kind.attention for at, source in enumerate(numbers)):
        return f"copies would run as another layer type of {model.model_type}, which is not modeled: leave it out"
    return None


def _not_modeled(method: TargetedMethod) -> Iterator[Problem]:
    refused = {"bias": "none", "modules_to_save": None, "target_parameters": None, "trainable_token_indices": None}
    for name, accepted in refused.items():
        value = getattr(method, name)
        if value not in (accepted, ()):
            message = f"is not modeled with layer_replication: use {'null' if accepted is None else accepted}"
            yield Problem(loc=f"method.{name}", msg=message, input=value)
