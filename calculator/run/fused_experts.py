"""The weights of experts that transformers fuses while it reads a model whose files have each expert's weights.

Source: transformers 5.24, conversion_mapping.py and core_model_loading.py. MergeModulelist stacks the experts' weights
and frees them. Concatenate joins the stacks of two weights. Transpose copies weights that the files have fused, but
transposed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.allocator.loading import Loading, layers, one_by_one
from calculator.common.dtype import ITEMSIZE, rounded

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from calculator.allocator.reads import Read
    from calculator.common.dtype import DType
    from calculator.inputs.training import Training
    from calculator.resident.tensor import ResidentTensor

#: The names of the weights of all experts together; the models whose files have each expert's; and the models whose
#: files have them transposed.
FUSED = (".gate_up_proj", ".up_proj", ".down_proj")
FUSED_IN_FILES = frozenset(
    {"gemma4", "gemma4_text", "gpt_oss", "granitemoe", "granitemoehybrid", "llama4", "llama4_text"}
)
TRANSPOSED_IN_FILES = frozenset({"qwen3_vl_moe"})

#: Names in the files of models that differ from the names of the modules. They determine the order of reading.
NAMES_IN_FILES = {".mlp.": ".block_sparse_moe.", ".gate_up_proj": ".0.w1", ".down_proj": ".0.w2"}
OTHER_NAMES_IN_FILES = frozenset({"mixtral", "phimoe"})

#: The row of the weights that are alive in addition to the new tensor.
STACKED = "weights of experts before they are fused"

#: The sentence on the weights in host memory.
TWICE = "Weights of experts are fused into new tensors."
CAST = "Weights of experts are cast one by one, then fused: the largest fused tensor exists twice meanwhile."
#: The largest block that glibc's malloc may keep. Larger blocks are always mapped, and returned when they are freed.
#: Source: glibc, malloc/malloc.c, DEFAULT_MMAP_THRESHOLD_MAX on 64 bits.
MOST_KEPT = 32 << 20


def kept_by_malloc(size: int) -> str:
    """Return the sentence on what the resident set may have in addition if experts' weights are cast on the host."""
    return (
        "Threads cast the weights of experts, and glibc's malloc may keep what is freed of them: loading needs between"
        f" its figure of host memory and {size:,} bytes more in each process, which differs from run to run. With"
        " MALLOC_MMAP_THRESHOLD_=131072 in the environment, it needs the figure."
    )


def is_fused(name: str, model_type: str) -> bool:
    """Return whether transformers fuses a weight from each expert's, or transposes it."""
    return ".experts." in name and name.endswith(FUSED) and model_type not in FUSED_IN_FILES


def parts_of(tensor: ResidentTensor, model_type: str) -> int:
    """Return the tensors in the files that a fused weight comes from."""
    if model_type in TRANSPOSED_IN_FILES:
        return 1
    return int(tensor.shape[0]) * (2 if joins(tensor, model_type) else 1)


def from_parts(tensor: ResidentTensor, model_type: str) -> bool:
    """Return whether a tensor is fused from tensors in the files."""
    return bool(tensor.parameters) and not tensor.in_checkpoint and is_fused(tensor.name, model_type)


def joins(tensor: ResidentTensor, model_type: str) -> bool:
    """Return whether two stacks are joined to form it."""
    return tensor.name.endswith(".gate_up_proj") and model_type not in TRANSPOSED_IN_FILES


def name_in_files(name: str, model_type: str) -> list[str]:
    """Return the parts of a name in the files, in whose order the weights are read.

    For fused weights, they are those of the first weight.
    """
    for in_model, in_files in NAMES_IN_FILES.items() if model_type in OTHER_NAMES_IN_FILES else ():
        name = name.replace(in_model, in_files)
    return name.split(".")


class FusedWeight(NamedTuple):
    """The bytes of a fused weight on a GPU: the parts that are read, the last operation's input, and its result."""

    parts: int
    read: int
    result: int


def fused(tensor: ResidentTensor, model_type: str, dtype: DType) -> FusedWeight:
    """Return the bytes that one weight requests while it is fused."""
    count, size = parts_of(tensor, model_type), tensor.parameters * ITEMSIZE[dtype]
    parts = count * rounded(size // count)
    return FusedWeight(parts, 2 * rounded(size // 2) if joins(tensor, model_type) else parts, rounded(size))


class FusesExperts(Loading):
    """A load that quantizes. It reads the weights one by one, in the order of the files' names, and fuses experts'."""

    __slots__ = ("_model_type",)

    def __init__(self, state: tuple[ResidentTensor, ...], training: Training, model_type: str) -> None:
        self._model_type = model_type
        super().__init__(state, training)

    def _key(self, tensor: ResidentTensor) -> list[str]:
        # bitsandbytes creates its own code book for the first weight.
        is_book = tensor.name.startswith("name2qmap.")
        return [] if is_book else name_in_files(tensor.name, self._model_type)

    def _read_of(self, tensor: ResidentTensor) -> Read:
        read = super()._read_of(tensor)
        if not from_parts(tensor, self._model_type):
            return read
        weights = fused(tensor, self._model_type, self.training.dtype)
        return read._replace(
            names=[STACKED, tensor.name], sizes=[weights.read, weights.result], row=1, events=(0, 1), freed=(0,)
        )


def read_ahead(
    base: Iterable[ResidentTensor], training: Training, model_type: str
) -> tuple[list[tuple[str, int]], str] | None:
    """Return the live tensors at the peak of fusing, and the fused weight, if threads have read all parts before.

    `base` are the tensors of the files. Return None if nothing is fused.
    """
    weights = sorted(base, key=lambda tensor: name_in_files(tensor.name, model_type))
    sizes = {weight: fused(weight, model_type, training.dtype) for weight in weights if from_parts(weight, model_type)}
    if not sizes:
        return None
    alive = {
        weight: sizes[weight].parts * weight.count if weight in sizes else _size(weight, training) for weight in weights
    }
    most, total, read, operation = dict(alive), 0, 0, ""
    for tensor in one_by_one(weights):
        if tensor in sizes:
            experts = sizes[tensor]
            alive[tensor] += experts.result - experts.parts
            now = sum(alive.values()) + experts.read
            if now > total:
                most, total, read, operation = dict(alive), now, experts.read, tensor.name
    return [*((key.name, size) for key, size in most.items()), (STACKED, read)], operation


def _size(tensor: ResidentTensor, training: Training) -> int:
    """Return the bytes of all tensors of a kind as they are read."""
    dense = rounded(tensor.parameters * ITEMSIZE[training.dtype]) * tensor.count
    return dense if tensor.parameters and not tensor.packed else tensor.bytes


class FusedOnHost(NamedTuple):
    """The bytes of host memory while a model with fused experts is loaded: of mapped files, and of new tensors."""

    mapped: int
    new: int


def until_moved(base: Sequence[ResidentTensor], model_type: str, size: int) -> FusedOnHost:
    """Return the peak bytes from the first fused weight until the model is on the GPU, if nothing is cast.

    Weights have `size` bytes per element. The experts' weights are read from the mapped files to be fused. The others
    are read while they move to the GPU one by one, which frees the fused tensors.
    """
    mapped = new = sum(tensor.parameters * tensor.count for tensor in base if from_parts(tensor, model_type)) * size
    moments = [_last_join(base, model_type, size, mapped)]
    for group, count in layers(base):
        for tensor in group * count:
            if from_parts(tensor, model_type):
                new -= tensor.parameters * size
            else:
                mapped += tensor.parameters * size
                moments.append(FusedOnHost(mapped, new))
    return max(moments, key=sum)


def _last_join(base: Iterable[ResidentTensor], model_type: str, size: int, total: int) -> FusedOnHost:
    """Return the bytes while the last two stacks are joined to a third tensor.

    All fused weights have `total` bytes. Weights whose names follow are not read yet.
    """
    last = {tensor.name: tensor for tensor in base if from_parts(tensor, model_type)}
    joined = [tensor for tensor in last.values() if joins(tensor, model_type)]
    if not joined:
        return FusedOnHost(total, total)
    follow = (
        sum(
            tensor.parameters
            for tensor in last.values()
            if name_in_files(tensor.name, model_type) > name_in_files(joined[-1].name, model_type)
        )
        * size
    )
    return FusedOnHost(total - follow, total - follow + joined[-1].parameters * size)
