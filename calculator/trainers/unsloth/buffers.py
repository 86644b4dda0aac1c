"""The buffers that Unsloth keeps on the GPU: tables of rotary embeddings, inputs of layers, and dequantized weights.

Source: unsloth/models/llama.py, LlamaRotaryEmbedding and LongRopeRotaryEmbedding; models/gemma.py,
GemmaFixedRotaryEmbedding;
unsloth_zoo/gradient_checkpointing.py, UnslothCheckpointFunction; unsloth/kernels/utils.py, fast_dequantize.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements, named
from calculator.common.dtype import ITEMSIZE
from calculator.resident.quantization import Quantization
from calculator.resident.tensor import ResidentTensor
from calculator.trainers.unsloth.families import UNSLOTH_FAMILIES, has_rows
from calculator.trainers.unsloth.modules import MLP, OUTPUT, QKV
from calculator.trainers.unsloth.products import FACTORS
from calculator.trainers.unsloth.releases import is_rewritten

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.common.names import ComponentName
    from calculator.inputs.training import Training
    from calculator.resident.module_spec import ModuleSpec
    from calculator.trainers.subject import Subject

#: The maximum number of positions of the tables when the model is created, and the multiple that they grow to.
FIRST_POSITIONS, POSITIONS = 4 * 8192, 8192

#: The positions of LongRoPE's short tables if the config does not state the original number.
SHORT_POSITIONS = 4096

#: Inputs of layers with more elements than this are moved to the host: 2 MiB in half precision.
LEAST_OFFLOADED = 1 << 20

#: The elements of each buffer for inputs of layers, before a larger input occurs.
FIRST_BUFFER = 2 * 256 * 2048

#: The number of host buffers before the first forward pass, and the elements of each.
HOST_BUFFERS, HOST_BUFFER = 200, 128 * 1024

#: Sequences shorter than this keep the inputs of layers on the GPU.
LEAST_LENGTH = 512


def offloads(model: Model, training: Training) -> bool:
    """Return whether the inputs of layers are moved to host memory."""
    return _is_patched(training) and _hidden(model, training) > LEAST_OFFLOADED


def offloads_modules(training: Training) -> bool:
    """Return whether the originals of embeddings and heads that are trained in full are moved to a file.

    Source: unsloth/models/_utils.py, offload_input_embeddings and offload_output_embeddings.
    """
    return training.gradient_checkpointing and training.activation_offloading is not False


def _is_patched(training: Training) -> bool:
    is_long = training.sequence_length >= LEAST_LENGTH
    return training.gradient_checkpointing and is_long and training.activation_offloading is not False


def _hidden(model: Model, training: Training) -> int:
    return training.micro_batch_size * training.sequence_length * int(model.config["hidden_size"])


def host_bytes(prepared: Subject) -> int | None:
    """Return the bytes of pinned host memory for inputs of layers.

    There is a buffer for each layer but the last, and some in reserve.
    """
    model, training = prepared.model, prepared.training
    if not _is_patched(training):
        return None
    used = len(model.decoder.layers) - 1 if offloads(model, training) else 0
    in_reserve = max(0, HOST_BUFFERS - used) * HOST_BUFFER
    return (used * max(HOST_BUFFER, _hidden(model, training)) + in_reserve) * ITEMSIZE[training.dtype]


def buffers(prepared: Subject) -> Iterator[ResidentTensor]:
    """Yield every buffer."""
    yield from _rotary(prepared)
    yield from _layer_inputs(prepared)
    yield from _dequantized(prepared)
    if has_rows(prepared.stack, prepared.model.model_type):
        bounds = named(prepared.training.micro_batch_size + 1, "B + 1")
        yield ResidentTensor(name="cu_seqlens", shape=(bounds,), dtype="int32", component="activations", base=False)


def _rotary(prepared: Subject) -> Iterator[ResidentTensor]:
    """Yield the tables of the rotary embedding. Those of 2026.10 grow to the tokens of a row without padding."""
    config, training = prepared.model.config, prepared.training
    positions = _positions(prepared)
    shape = (named(positions, "positions"), named(int(config["head_dim"]), "head_dim"))
    if config.get("rope_type") != "longrope":
        dtype = "float32" if UNSLOTH_FAMILIES[prepared.model.model_type].float32_tables else training.dtype
        for name in ("cos", "sin"):
            yield _buffer(f"model.rotary_emb.multi_gpu_{name}_cached", shape, dtype)
            yield _buffer(f"model.rotary_emb.{name}_cached", (), training.dtype)
        return
    original = named(int(config.get("original_max_position_embeddings") or SHORT_POSITIONS), "original positions")
    for which, rows in (("short", original), ("long", shape[0])):
        for name in ("cos", "sin"):
            yield _buffer(f"model.rotary_emb.multi_gpu_{which}_{name}_cached", (rows, shape[1]), training.dtype)
            yield _buffer(f"model.rotary_emb.{which}_{name}_cached", (), training.dtype)


def _positions(prepared: Subject) -> int:
    """Return the rows of a table of the rotary embedding.

    2026.10 builds the rows that it needs: those of every position if a row has positions of its own.
    """
    most, tokens = int(prepared.model.config["max_position_embeddings"]), prepared.training.sequence_length
    if not is_rewritten(prepared.stack):
        return _rounded(max(most, tokens)) if max(most, tokens) > FIRST_POSITIONS else max(most, tokens)
    if has_rows(prepared.stack, prepared.model.model_type):
        tokens = max(most, tokens * prepared.training.micro_batch_size)
    if max(most, tokens) > FIRST_POSITIONS:
        return max(FIRST_POSITIONS, _rounded(tokens))
    return _rounded(tokens) if tokens > most else most


def _rounded(positions: int) -> int:
    return -(-positions // POSITIONS) * POSITIONS


def _layer_inputs(prepared: Subject) -> Iterator[ResidentTensor]:
    """Yield the buffers for inputs of layers. From 2026.10 on, the first input that is moved makes them."""
    training, hidden = prepared.training, _hidden(prepared.model, prepared.training)
    is_used = offloads(prepared.model, training)
    if not (is_used if is_rewritten(prepared.stack) else _is_patched(training)):
        return
    first = named(FIRST_BUFFER, "2 × 256 × 2048")
    largest = max(first, named(hidden, "B × S × hidden_size")) if is_used else first
    yield _buffer("GPU_BUFFERS", (largest,), training.dtype)
    if training.is_highest or not is_used:
        yield _buffer("GPU_BUFFERS_B", (largest,), training.dtype)


def _dequantized(prepared: Subject) -> Iterator[ResidentTensor]:
    """Return the dense copy of the largest 4-bit weight that a fused function has read, and its block constants.

    From 2026.10 on, one kernel dequantizes both.
    """
    weights = list(_read_by_functions(prepared))
    if not weights:
        return
    module, quantization = max(weights, key=lambda pair: pair[0].weight.elements)
    yield _buffer("WEIGHT_BUFFER", (named(_size(module), "largest weight"),), quantization.compute_dtype)
    if is_rewritten(prepared.stack):
        return
    blocks = ceil(_size(module) / quantization.blocksize)
    yield _buffer("ABSMAX_BUFFER", (named(blocks, "blocks"),), "float32")


def _read_by_functions(prepared: Subject) -> Iterator[tuple[Module, Quantization]]:
    """Yield each 4-bit weight that a fused function reads, and how it is stored."""
    decoder = prepared.model.decoder
    if getattr(prepared.method, "lora_dropout", 0.0):
        return
    for layer, _ in decoder.distinct:
        by_name = {module.name: module for module in layer.modules}
        for names in (QKV, MLP, (OUTPUT,)):
            modules = [by_name[name] for name in names]
            specs = [prepared.module_spec(module.under(f"{decoder.name}.*"), module) for module in modules]
            if all(map(_is_fused, modules, specs)):
                for module, spec in zip(modules, specs, strict=True):
                    if isinstance(spec.quantization, Quantization):
                        yield module, spec.quantization


def _is_fused(module: Module, spec: ModuleSpec) -> bool:
    return module.bias is None and {parameter.name for parameter in spec.added} >= set(FACTORS)


def _size(module: Module) -> int:
    return elements(module.weight.shape)


def _buffer(name: str, shape: Shape, dtype: DType) -> ResidentTensor:
    component: ComponentName = "workspace" if name.endswith("_BUFFER") else "activations"
    return ResidentTensor(name=name, shape=shape, dtype=dtype, component=component, base=False)
