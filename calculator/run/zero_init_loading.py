"""The peak bytes on a GPU while transformers builds a model under deepspeed.zero.Init and fills it from its files.

Sources: deepspeed 0.19.8, runtime/zero/partition_parameters.py (zero_wrapper_for_fp_tensor_constructor, which makes a
parameter in the dtype of from_pretrained and casts it; Init._post_init_method; GatheredParameters); transformers 5.24,
integrations/deepspeed.py (_load_state_dict_into_zero3_model) and modeling_utils.py (_initialize_missing_keys).
"""

from __future__ import annotations

from itertools import accumulate, groupby
from typing import TYPE_CHECKING

from calculator.common.dtype import ITEMSIZE, allocated
from calculator.run.fused_experts import is_fused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.common.dtype import DType
    from calculator.sharding.zero3.parameters import Partitioned
    from calculator.sharding.zero3.state import PartitionedState

#: The tensors alive at a moment: names and bytes.
Alive = list[tuple[str, int]]

#: A moment: how many parameters are partitioned, what else is alive, and what runs.
_Moment = tuple[int, Alive, str]


class LoadingUnderZeroInit:
    """The moments of `from_pretrained` that may be the peak."""

    def __init__(self, state: PartitionedState) -> None:
        self._state, self._dtype = state, state.prepared.given.dtype
        model = state.prepared.model
        base = {tensor.name for tensor in state.tensors if tensor.base}
        base_parameters = [row for row in state.all_parameters if row.key.name in base]
        named = {base_parameter.key.name: base_parameter for base_parameter in base_parameters}
        #: The parameters in the order in which they are created, including tied ones, which are tied after the files
        #: are read.
        self._built = [(base_parameter.key.name, base_parameter) for base_parameter in base_parameters]
        self._built += [(alias, named[source]) for alias, source in model.tied.items() if source in named]
        self._tied, self._heads = model.tied, model.task.head_names
        self._buffers = [(tensor.name, tensor.bytes) for tensor in state.tensors if not tensor.parameters]
        self._parts = self.partitions
        self._sums = [*accumulate((size for _, size in self._parts), initial=0)]

    def moments(self) -> Iterator[tuple[Alive, str]]:
        """Yield the peak moments while the model is built, and while its weights are read."""
        for moments in (self._building(), self._reading()):
            count, alive, what = max(moments, key=lambda moment: self._sums[moment[0]] + _sum(moment[1]))
            yield [*self._parts[:count], *alive], what

    @property
    def partitions(self) -> Alive:
        """The partition of each parameter on the GPU. There are none if parameters are offloaded."""
        on_gpu = not self._state.sizes.offloads_parameters
        return [
            (f"{name}: partition", _bytes(parameter.partition, parameter.dtype) * on_gpu)
            for name, parameter in self._built
        ]

    def _building(self) -> Iterator[_Moment]:
        """Yield the moments at which each module creates its parameters, which are partitioned one by one."""
        done = 0
        for _, group in _modules(self._built):
            whole: Alive = []
            for name, parameter in group:
                created = [(f"{name}: created", _bytes(parameter.elements, self._dtype))] * (
                    parameter.dtype != self._dtype
                )
                yield (
                    done,
                    [*self._buffers_before(done), *whole, *created, (name, parameter.whole)],
                    f"zero.Init: {name}",
                )
                whole.append((name, parameter.whole))
            for at, (name, _) in enumerate(group):
                done += 1
                yield done, [*self._buffers_before(done), *whole[at:]], f"partition: {name}"

    def _buffers_before(self, done: int) -> Alive:
        """Return the buffers, which exist after the last layer is built."""
        last = max((at for at, (name, _) in enumerate(self._built) if ".*." in name), default=-1)
        return self._buffers if done > last + 1 else []

    def _reading(self) -> Iterator[_Moment]:
        """Yield the moments at which parameters are gathered and filled.

        Those of each module come first, then those that are not in the files, all at once.
        """
        done = len(self._built)
        in_files = [tensor for tensor in self._built if tensor[0] not in self._tied]
        new = [file for file in in_files if file[0].split(".")[0] in self._heads]
        read = [file for file in in_files if file not in new]
        model_type = self._state.prepared.model.model_type
        converted = [tensor for tensor in read if is_fused(tensor[0], model_type)]
        for name, parameter in converted:
            yield done, [*self._buffers, *gathered([(name, parameter)], self._state)], f"GatheredParameters: {name}"
        for module, group in _modules(tensor for tensor in read if tensor not in converted):
            yield done, [*self._buffers, *gathered(group, self._state)], f"GatheredParameters: {module}"
        yield done, [*self._buffers, *gathered(new, self._state)], "initialize_weights"


def gathered(parameters: Iterable[tuple[str, Partitioned]], state: PartitionedState) -> Alive:
    """Return named parameters while they are gathered, with their partitions.

    Offloaded partitions are copied to the GPU.
    """
    sizes = [(f"{name}: gathered", parameter.with_padding) for name, parameter in parameters]
    if state.sizes.offloads_parameters:
        sizes += [
            (f"{name}: copy of the partition", _bytes(parameter.partition, parameter.dtype))
            for name, parameter in parameters
        ]
    return sizes


def _modules(parameters: Iterable[tuple[str, Partitioned]]) -> Iterator[tuple[str, list[tuple[str, Partitioned]]]]:
    """Yield the parameters of each module."""
    for module, group in groupby(parameters, key=lambda parameter: parameter[0].rpartition(".")[0]):
        yield module, [*group]


def _bytes(elements: int, dtype: DType) -> int:
    return allocated(elements, ITEMSIZE[dtype])


def _sum(alive: Alive) -> int:
    return sum(size for _, size in alive)
