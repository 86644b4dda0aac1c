"""The files in which the Trainer saves FSDP2's model and optimizer, in addition to those of `save_pretrained`.

With FULL_STATE_DICT the first process writes whole tensors with `torch.save`. With SHARDED_STATE_DICT every process
writes one file with `torch.distributed.checkpoint`, which saves each tensor and each value as a separate archive. If
every process has a copy of a value, one of them writes it.

Sources: accelerate 1.15, utils/fsdp_utils.py (save_fsdp_model, save_fsdp_optimizer); PyTorch 2.13,
distributed/checkpoint/state_dict.py, default_planner.py and filesystem.py (_write_item).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calculator.checkpoint.optimizer_file import state_dict
from calculator.checkpoint.torch_file import TorchTensor, file_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from calculator.architecture.dimension import Shape
    from calculator.checkpoint.parameters import Named
    from calculator.common.dtype import DType
    from calculator.resident.optimizer import Optimizer

#: The name of the archive that `torch.save` writes to a stream.
_STREAM = "archive"


def model_bytes(parameters: Sequence[Named], name_of: Callable[[str], str]) -> int:
    """Return the size of pytorch_model_fsdp.bin, in bytes."""
    whole = {name_of(parameter.name): _tensor(parameter.kind.shape, parameter.kind.dtype) for parameter in parameters}
    return file_bytes(whole, "pytorch_model_fsdp")


def optimizer_bytes(groups: Sequence[Sequence[Named]], optimizer: Optimizer, name_of: Callable[[str], str]) -> int:
    """Return the size of optimizer.bin, in bytes."""
    return file_bytes(_named_states(groups, optimizer, name_of), "optimizer")


def sharded_model_bytes(saved: Iterable[tuple[tuple[int, ...], DType]], count: int) -> int:
    """Return the total size of the model's .distcp files of all processes, in bytes."""
    return sum(_shards(_tensor(shape, dtype), count) for shape, dtype in saved)


def sharded_optimizer_bytes(
    groups: Sequence[Sequence[Named]], optimizer: Optimizer, count: int, name_of: Callable[[str], str]
) -> int:
    """Return the total size of the optimizer's .distcp files of all processes, in bytes."""
    saved = _named_states(groups, optimizer, name_of)
    states = [tensor for state in saved["state"].values() for tensor in state.values()]
    options = [value for group in saved["param_groups"] for value in group.values()]
    return sum(_shards(state, count) for state in states) + sum(file_bytes(value, _STREAM) for value in options)


def _named_states(
    groups: Sequence[Sequence[Named]], optimizer: Optimizer, name_of: Callable[[str], str]
) -> dict[str, Any]:
    """Return the optimizer's state dict with names of parameters in place of their numbers."""
    names = [name_of(tensor.name) for group in groups for tensor in group]
    saved = state_dict(groups, replace(optimizer, step_on_device=False), device="cpu")
    return {
        "state": {names[number]: state for number, state in saved["state"].items()},
        "param_groups": [{**group, "params": [names[n] for n in group["params"]]} for group in saved["param_groups"]],
    }


def _shards(tensor: TorchTensor, count: int) -> int:
    """Return the total size of the archives of a tensor's shards. A scalar is not sharded."""
    if not tensor.shape:
        return file_bytes(tensor, _STREAM)
    return sum(file_bytes(replace(tensor, shape=shape), _STREAM) for shape in _chunks(tensor.shape, count))


def _chunks(shape: tuple[int, ...], count: int) -> Iterator[tuple[int, ...]]:
    """Yield the shape of each process's shard, as `torch.chunk` splits it. The last shards can be empty."""
    first, part = shape[0], -(-shape[0] // count)
    for rank in range(count):
        yield (max(0, min(part, first - rank * part)), *shape[1:])


def _tensor(shape: Shape, dtype: DType) -> TorchTensor:
    return TorchTensor(tuple(map(int, shape)), dtype)
