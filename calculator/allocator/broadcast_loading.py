"""The allocations that load a model which accelerate broadcasts to the GPUs, one weight after the other.

A process other than the first has two whole weights at a time, because the buffer of the next weight is allocated
before that of the last is freed. `distribute_tensor` pads the parts of a weight that are shorter than the first part.
`load_state_dict` copies a GPU's own shorter parts again. The last GPU has the most of these, so the load is that of the
last GPU.

Source: accelerate 1.15, utils/fsdp_utils.py (fsdp2_load_full_state_dict); torch/distributed/tensor/placement_types.py
(Shard._split_tensor, _shard_tensor); torch/distributed/fsdp/_fully_shard/_fsdp_param.py (reset_sharded_param).
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from calculator.allocator.host_loading import HostLoading
from calculator.architecture.dimension import elements
from calculator.architecture.model import Stack
from calculator.common.dtype import ITEMSIZE, allocated
from calculator.inputs.sharding import FSDPConfig
from calculator.methods.compared import is_second
from calculator.resident.tensors import layer_parameters, outer_parameters
from calculator.sharding.fsdp.parameters import shard_shape, stored

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Layer
    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.tensor import ResidentTensor
    from calculator.training_step.resident_state import ResidentState


#: The second name under which PEFT stores the embeddings of a model with virtual tokens.
WORD_EMBEDDINGS = "word_embeddings.weight"


def broadcasts(prepared: PreparedModel) -> bool:
    """Return whether accelerate broadcasts the weights. It does not broadcast a model with 4-bit weights."""
    config = prepared.training.fsdp_config or FSDPConfig()
    return config.cpu_ram_efficient_loading and not prepared.method.facts.quantizes_base


class LoadedByBroadcast(HostLoading):
    """The load of a model on the last GPU, which keeps its shards."""

    __slots__ = ("_count", "_tied")

    def __init__(self, resident: ResidentState) -> None:
        prepared = resident.prepared
        super().__init__(prepared)
        self._count, self._tied = prepared.device.count, prepared.model.tied
        whole: int | None = None
        shards: dict[int, tuple[str, ResidentTensor]] = {}
        for name, tensor in state_dict(prepared):
            added = self._add(tensor.name, _bytes(tensor.shape, tensor))
            self._free(() if whole is None else (whole,))
            shards[self._shard(tensor)] = name, tensor
            whole = added
        if not self._offloads:
            shards = self._loaded(shards)
        self._free(() if whole is None else (whole,))
        self._stay(buffer for buffer in resident.whole if not buffer.parameters and not is_second(buffer))
        if not self._offloads:
            self._free(row for row, (name, _) in shards.items() if name in self._tied)
        self._stay(resident_tensor for resident_tensor in resident.tensors if is_second(resident_tensor))

    def _shard(self, tensor: ResidentTensor) -> int:
        """Pad the parts that are shorter than the first one, and receive this GPU's part."""
        size = self._shard_size(tensor)
        padded = [self._add(f"{tensor.name}: padded part", size) for _ in range(self._shorter(tensor))]
        row = self._add(f"{tensor.name}: shard", size)
        self._free((*padded, *((row,) if self._offloads else ())))
        return row

    def _loaded(self, shards: dict[int, tuple[str, ResidentTensor]]) -> dict[int, tuple[str, ResidentTensor]]:
        """Copy the shorter parts to padded ones. The original parts are freed after the last copy.

        FSDP knows a tied weight by one of its modules. The other module keeps the part that it received until weights
        are tied again.
        """
        loaded: dict[int, tuple[str, ResidentTensor]] = {}
        for row, (name, tensor) in shards.items():
            copied = self._shorter(tensor) and name not in self._tied
            loaded[self._add(f"{tensor.name}: shard", self._shard_size(tensor)) if copied else row] = name, tensor
        self._free(row for row in shards if row not in loaded)
        return loaded

    def _shorter(self, tensor: ResidentTensor) -> int:
        """Return the number of GPUs whose part is shorter than the first GPU's."""
        rows = int(tensor.shape[0])
        return self._count - rows // -(-rows // self._count)

    def _shard_size(self, tensor: ResidentTensor) -> int:
        return _bytes(shard_shape(tensor.shape, self._count), tensor)


def state_dict(prepared: PreparedModel) -> Iterator[tuple[str, ResidentTensor]]:
    """Yield every parameter in the order and with the names of the state dict.

    A shared parameter comes once for each of its names. A model with virtual tokens has the embeddings again under a
    name of their own (peft/peft_model.py, _setup_prompt_encoder).
    """
    model = prepared.model
    outer = stored(outer_parameters(prepared), prepared.method, prepared.training)
    by_name = {parameter.name: parameter for parameter in outer}
    for part in model.parts:
        if isinstance(part, Stack):
            of = {layer: _in_order(stored_layer(prepared, layer, part.name)) for layer, _ in part.distinct}
            yield from ((parameter.name, parameter) for layer in part.layers for parameter in of[layer])
            continue
        yield from ((parameter.name, parameter) for parameter in outer if parameter.name.startswith(f"{part.name}."))
        aliases = (alias for alias in model.tied if alias.rpartition(".")[0] == part.name)
        yield from ((alias, by_name[model.tied[alias]]) for alias in aliases)
    names = tuple(f"{name}." for name in model.outer)
    yield from ((parameter.name, parameter) for parameter in outer if not parameter.name.startswith(names))
    if prepared.method.virtual_tokens:
        yield WORD_EMBEDDINGS, by_name[f"{model.embedding.name}.weight"]


def _in_order(parameters: list[ResidentTensor]) -> list[ResidentTensor]:
    """Return the parameters of a layer. Those that a method adds to a module follow the module's own."""
    first: dict[str, int] = {}
    paths = {parameter: [*accumulate(parameter.name.split("."), "{}.{}".format)] for parameter in parameters}
    for number, parameter in enumerate(parameters):
        for path in paths[parameter]:
            first.setdefault(path, number)
    return sorted(parameters, key=lambda parameter: [first[path] for path in paths[parameter]])


def stored_layer(prepared: PreparedModel, layer: Layer, stack: str) -> list[ResidentTensor]:
    """Return the parameters of a layer as accelerate stores them."""
    return stored(layer_parameters(prepared, layer, stack), prepared.method, prepared.training)


def _bytes(shape: Shape, tensor: ResidentTensor) -> int:
    return allocated(elements(shape), ITEMSIZE[tensor.dtype])
