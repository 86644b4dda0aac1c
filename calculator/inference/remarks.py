"""The assumptions and warnings of an inference's answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.allocator.segments import MIB, OWN_SEGMENT, segment_bytes
from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE
from calculator.devices.verdict import EXPANDABLE
from calculator.estimation.cudnn_attention import passes_remarks
from calculator.estimation.remarks import not_quantized
from calculator.families import forward_of
from calculator.layers.cache import pairs_by_layer
from calculator.layers.decoder_forward import rotary_tables, rotary_tables_per_type
from calculator.stack.changes import OF_STEPS, OF_TRAINERS
from calculator.stack.sentences import differences, named
from calculator.stack.verified import untraced_passes

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.devices import Fit
    from calculator.inference.answer import Merge
    from calculator.inference.request import InferenceRequest
    from calculator.inference.served_method import ServedMethod
    from calculator.layers.cache import Cache

PASSES = (
    "The passes are those of greedy generate with a DynamicCache: the whole prompt at once, then a token at a time. Its"
    " mask of ones, sampling and stopping criteria are not counted."
)
REPLAY = (
    "Reserved memory is that of PyTorch's caching allocator, replayed from the load through every pass on a device that"
    " ran nothing before."
)
RULE = (
    "Reserved memory is estimated by a rule: blocks for the largest number of tensors of each size that are alive at"
    " once in the pass that needs most. Replays of answers of at most 128 tokens reserved from 40 % less to 1 % more;"
    " longer answers may differ more."
)
FUSED = (
    "With up to 4 tokens per pass, one kernel reads 4-bit weights directly. From 5 to 1,536 tokens some GPUs have such"
    " a kernel too; the figures count the dequantized copy."
)
SPLIT = "Over a long cache, flash attention may split its work; the partial results are not counted."
ONE_TASK = "Each batch is for one task; the other tasks' weights stay on the GPU too."
WINDOW = (
    "A sliding-window layer keeps all keys and values of the prompt until the next token, and no more than the window"
    " after it."
)
EXPERTS = "After the prompt, generate copies each token's expert matrices before it multiplies; the copies are counted."


def assumptions(
    request: InferenceRequest,
    model: Model,
    served: ServedMethod,
    verdict: Fit | None,
    *,
    replayed: bool,
    reason: str | None,
) -> tuple[str, ...]:
    """Return the assumptions of the figures.

    `reason` is why reserved memory is not replayed, if a replay was requested.
    """
    serving = request.serving
    sentences = [
        f"The figures are for {named(request.stack)}.",
        *differences(request.stack, model.model_type, left_out=OF_STEPS | OF_TRAINERS),
        *untraced_passes(request.stack, model.model_type, request.method.name),
        PASSES,
    ]
    sentences += [REPLAY] if replayed else [RULE, *([reason] if reason else [])]
    if table_bytes := _rotary_table_bytes(request, model):
        sentences.append(
            "generate computes position_ids for each sequence; the figures share them across the batch, as the model's"
            f" own forward does. generate's rotary tables need {table_bytes:,} bytes more."
        )
    if served.quantization is not None:
        sentences.append(FUSED)
    if serving.attention != "eager" and serving.dtype != "float32":
        sentences.append(SPLIT)
    sentences += passes_remarks(request.device, request.stack, attention=serving.attention, dtype=serving.dtype)
    if serving.tasks > 1:
        sentences.append(ONE_TASK)
    if any(layer.kind.attention == "sliding_attention" for layer, _ in model.distinct_layers):
        sentences.append(WINDOW)
    if any(module.kind == "experts" for module in model.modules):
        sentences.append(EXPERTS)
    if not request.length_given:
        sentences.append(f"No context_length was given: {serving.context_length:,} tokens are assumed.")
    sentences += model.notes
    if verdict is not None and verdict.assumption:
        sentences.append(verdict.assumption)
    return tuple(sentences)


def warnings(
    request: InferenceRequest, model: Model, served: ServedMethod, merge: Merge | None, usable: int | None, cache: Cache
) -> tuple[str, ...]:
    """Return sentences on the risks of the configuration."""
    serving = request.serving
    sentences: list[str] = []
    if served.quantization is not None:
        sentences += not_quantized(model)
    if serving.merged:
        sentences += _merging(merge, served, usable)
    facts = request.method.facts
    if facts.generate_caveat:
        sentences.append(facts.generate_caveat)
    if facts.always_float32 and serving.adapter_dtype == "model":
        sentences.append(
            "PEFT keeps prefix and prompt parameters in float32 whatever adapter_dtype is; so do the figures."
        )
    sentences += _growing(request, model, cache)
    if facts.quantizes_base and served.quantization is None:
        sentences.append(
            "The adapter was trained over the base's 4-bit copy. The dense base's weights differ by the rounding:"
            " measure the quality."
        )
    tokens, positions = serving.context_length + serving.max_new_tokens, model.config.get("max_position_embeddings")
    if positions and tokens > positions:
        sentences.append(
            f"Prompt and answer are longer than the model's {positions:,} positions; the quality may suffer."
        )
    return tuple(sentences)


def _rotary_table_bytes(request: InferenceRequest, model: Model) -> int:
    """Return the bytes by which a rotary table per sequence exceeds one for all sequences."""
    serving, config = request.serving, model.config
    kinds = {layer.kind.attention for layer in model.decoder.layers}
    tables_for = forward_of(model).tables
    pairs = 1 if tables_for is rotary_tables else len(kinds) if tables_for is rotary_tables_per_type else 0
    width, tables = config.get("rotary_dim") or config.get("head_dim") or 0, 2 * pairs
    return (serving.batch_size - 1) * tables * serving.context_length * int(width) * ITEMSIZE[serving.dtype]


def _growing(request: InferenceRequest, model: Model, cache: Cache) -> list[str]:
    """Return a warning of a cache whose blocks outgrow their segments.

    The allocator keeps the old segments until the GPU is full.

    Source: calculator/allocator/caching_allocator.py; tests/calculator/inference/replays.py shows how much.
    """
    new = request.serving.max_new_tokens - 1
    largest = 0, 0
    for layer, (keys, _) in pairs_by_layer(model.decoder.layers, cache.kept):
        if not (cache.windowed and layer.kind.attention == "sliding_attention"):
            token = elements((*keys.shape[:2], keys.shape[3])) * ITEMSIZE[keys.dtype]
            largest = max(largest, (token * int(keys.shape[2]), token * (int(keys.shape[2]) + new)))
    first, last = largest
    if last < OWN_SEGMENT or segment_bytes(first) == segment_bytes(last):
        return []
    sentence = (
        f"A layer's keys grow from {first / MIB:.1f} to {last / MIB:.1f} MiB and outgrow their blocks. Until the GPU"
        " is full, the allocator keeps the old blocks: in a replay nearly as much again as was live."
        f" {EXPANDABLE} keeps less."
    )
    return [sentence]


def _merging(merge: Merge | None, served: ServedMethod, usable: int | None) -> list[str]:
    if merge is None:
        return (
            ["The memory for merging with these settings is not modeled; that of the merged model is."]
            if served.mergeable
            else []
        )
    sentences = [merge.loss] if served.quantization is not None else []
    if usable is not None and merge.peak_bytes > usable:
        sentences.append(
            f"Merging needs {merge.peak_bytes:,} bytes, more than the GPU offers: merge in CPU memory, or on another"
            " GPU."
        )
    return sentences
