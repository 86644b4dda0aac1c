"""What the figures of a served model take for granted, and what may go wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.allocator.segments import MIB, OWN_SEGMENT, segment_bytes
from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE
from calculator.devices.verdict import EXPANDABLE
from calculator.estimate.remarks import STACK, not_quantized
from calculator.families import forward_of
from calculator.layers.decoder_forward import rotary_tables, rotary_tables_per_type

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.devices import Fit
    from calculator.inference.answer import Merge
    from calculator.inference.request import InferenceRequest
    from calculator.inference.served_method import Served
    from calculator.layers.cache import Cache

PASSES = (
    "The passes are those of greedy generate with a DynamicCache: the whole prompt at once, then a token at a time. Its"
    " mask of ones, sampling and stopping criteria are not counted."
)
RULE = (
    "Reserved memory is by a rule: blocks for the most tensors of each size that are alive at once in the pass that"
    " needs most. Replays of answers of at most 128 tokens reserved from 40 % less to 1 % more; longer ones may do so."
)
FUSED = (
    "With up to 4 tokens a pass, one kernel reads 4-bit weights; from 5 to 1,536 some cards have one too: the"
    " dequantised copy is counted there."
)
SPLIT = (
    "Over a long cache, flash attention may divide its work; the partial results, as many as the card has room for, are"
    " not counted."
)
ONE_TASK = "A batch is of one task; the other tasks' weights lie beside it."
WINDOW = (
    "A layer with a window keeps the prompt's keys and values whole until the next token, and no more than the window"
    " from then on."
)
EXPERTS = (
    "After the prompt, generate multiplies every token with its own copy of its experts' matrices, which is counted."
)


def assumptions(request: InferenceRequest, model: Model, served: Served, verdict: Fit | None) -> tuple[str, ...]:
    """What the figures take for granted."""
    serving = request.serving
    told = [f"The figures speak of {STACK}.", PASSES, RULE]
    if numbered := _numbered(request, model):
        told.append(
            "generate numbers each sequence's positions by itself; the figures share the numbers, as the model's own"
            f" forward does. Its rotary tables take {numbered:,} bytes more."
        )
    if served.quantization is not None:
        told.append(FUSED)
    if serving.attention != "eager" and serving.dtype != "float32":
        told.append(SPLIT)
    if serving.tasks > 1:
        told.append(ONE_TASK)
    if any(layer.kind.attention == "sliding_attention" for layer, _ in model.distinct_layers):
        told.append(WINDOW)
    if any(module.kind == "experts" for module in model.modules):
        told.append(EXPERTS)
    if not request.length_given:
        told.append(f"No context_length was given: {serving.context_length:,} tokens are taken.")
    told += model.notes
    if verdict is not None and verdict.assumption:
        told.append(verdict.assumption)
    return tuple(told)


def warnings(
    request: InferenceRequest, model: Model, served: Served, merge: Merge | None, usable: int | None, cache: Cache
) -> tuple[str, ...]:
    """Risks worth knowing."""
    serving, told = request.serving, []
    if served.quantization is not None:
        told += not_quantized(model)
    if serving.merged:
        told += _merging(merge, served, usable)
    facts = request.method.facts
    if facts.generate_caveat:
        told.append(facts.generate_caveat)
    if facts.always_float32 and serving.adapter_dtype == "model":
        told.append(
            "PEFT keeps prefix and prompt parameters in float32 whatever adapter_dtype says; so do the figures."
        )
    told += _growing(request, model, cache)
    if facts.quantizes_base and served.quantization is None:
        told.append(
            "The adapter was trained over the base's 4-bit copy; over the dense base it meets weights that differ by"
            " what rounding took: measure the quality."
        )
    tokens, positions = serving.context_length + serving.max_new_tokens, model.config.get("max_position_embeddings")
    if positions and tokens > positions:
        told.append(
            f"Prompt and answer are longer than the model's {positions:,} positions; quality there is another matter."
        )
    return tuple(told)


def _numbered(request: InferenceRequest, model: Model) -> int:
    """Bytes by which rotary tables for every sequence exceed those for all."""
    serving, config = request.serving, model.config
    kinds = {layer.kind.attention for layer in model.decoder.layers}
    makes = forward_of(model).tables
    pairs = 1 if makes is rotary_tables else len(kinds) if makes is rotary_tables_per_type else 0
    width, tables = config.get("rotary_dim") or config.get("head_dim") or 0, 2 * pairs
    return (serving.batch_size - 1) * tables * serving.context_length * int(width) * ITEMSIZE[serving.dtype]


def _growing(request: InferenceRequest, model: Model, cache: Cache) -> list[str]:
    """Blocks of the cache that outgrow their segments: the allocator keeps those that are too small, until it must not.

    Source: calculator/allocator/caching_allocator.py; tests/calculator/inference/replays.py shows how much.
    """
    new = request.serving.max_new_tokens - 1
    largest = 0, 0
    for layer, (keys, _) in zip(model.decoder.layers, cache.kept, strict=True):
        if not (cache.windowed and layer.kind.attention == "sliding_attention"):
            token = elements((*keys.shape[:2], keys.shape[3])) * ITEMSIZE[keys.dtype]
            largest = max(largest, (token * int(keys.shape[2]), token * (int(keys.shape[2]) + new)))
    first, last = largest
    if last < OWN_SEGMENT or segment_bytes(first) == segment_bytes(last):
        return []
    told = (
        f"A layer's keys grow from {first / MIB:.1f} to {last / MIB:.1f} MiB, out of their blocks: until the card is"
        " full, the allocator keeps the old ones, in a replay nearly as much again as was live."
        f" {EXPANDABLE} keeps less of it."
    )
    return [told]


def _merging(merge: Merge | None, served: Served, usable: int | None) -> list[str]:
    if merge is None:
        return ["What merging a DoRA update takes is not modelled; the merged model is."] if served.mergeable else []
    told = [merge.loss] if served.quantization is not None else []
    if usable is not None and merge.peak_bytes > usable:
        told.append(
            f"Merging itself needs {merge.peak_bytes:,} bytes, more than the card offers: merge in CPU memory, or on"
            " another card."
        )
    return told
