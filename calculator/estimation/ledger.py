"""The rows and components of a peak. Every figure is a sum over its storages."""

from __future__ import annotations

from functools import lru_cache, partial
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, get_args

from calculator.common.deferred import Deferred
from calculator.common.names import ComponentName
from calculator.engine.autocast import COPY
from calculator.engine.live_tensors import COMPONENTS
from calculator.engine.symbolic_sizes import SymInt
from calculator.estimation.answer import Component, Row
from calculator.estimation.row_form import RowForm
from calculator.resident.per_parameter import tensors
from calculator.sharding import ddp
from calculator.sharding.fsdp.units import UNIT_TENSORS
from calculator.sharding.zero import state as zero

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.engine.kinds import Storages
    from calculator.engine.live_tensors import LiveTensors
    from calculator.engine.tape import Allocation
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.resident.tensor_group import TensorGroup

#: The source of each component's rows.
SOURCES: dict[ComponentName, str] = {
    "base_weights": "the model that transformers builds from this config.json; bitsandbytes.nn.Linear4bit in 4 bits",
    "quantization_constants": "bitsandbytes.functional.QuantState",
    "adapter_weights": "the modules that peft adds; bottleneck adapters as their paper defines them",
    "gradients": "torch/csrc/autograd/functions/accumulate_grad.h: a gradient has its parameter's shape and dtype",
    "optimizer_states": "the optimizer's own state, from its second step on",
    "activations": "tools/autograd/derivatives.yaml of PyTorch: what each operation saves and returns",
    "kv_cache": "transformers/cache_utils.py, DynamicLayer.update and DynamicSlidingWindowLayer.update",
    "logits_and_loss": "transformers/loss/loss_utils.py, ForCausalLMLoss; torch's cross_entropy",
    "workspace": "temporaries that the kernels and the optimizer's step allocate",
}

#: The source of autocast's copies, in every component.
AUTOCAST = "ATen/autocast_mode.cpp of PyTorch, cached_cast: copies in autocast's dtype, kept for trained weights"


#: The source of DDP's buckets.
BUCKETS = (
    "torch/csrc/distributed/c10d/reducer.cpp, initialize_buckets: a tensor for the gradients of several parameters"
)
#: The source of the tensors of FSDP's units.
FSDP = "torch/distributed/fsdp/_fully_shard: _fsdp_collectives.py and _fsdp_param_group.py"


def rows(alive: LiveTensors) -> dict[ComponentName, tuple[Row, ...]]:
    """Return everything alive at a peak by component, the largest rows first."""
    by_component: dict[ComponentName, list[Row]] = {name: [] for name in get_args(ComponentName)}
    for resident_tensor in alive.resident_tensors:
        by_component[resident_tensor.component] += _resident_rows(resident_tensor)
    for component, row in _storage_rows(alive):
        by_component[component].append(row)
    return {name: tuple(sorted(listed, key=_SIZE, reverse=True)) for name, listed in by_component.items()}


def _storage_rows(alive: LiveTensors) -> list[tuple[ComponentName, Row]]:
    """Return the rows of the step's own storages, with their components, in the order of allocation."""
    storages = alive.storages
    if storages is None or alive.left is not None:
        return [
            (component, _row(name, shape, dtype, component, count, count * size))
            for (name, shape, dtype, component, size), count in alive.kinds().items()
            if size
        ]
    cached: list[_Listed] | None = alive.live_kinds.known.get("rows")
    if cached is None:
        cached = alive.live_kinds.known["rows"] = _listed(storages, alive.live_kinds.counts)
    sizes, digits = storages.sizes, storages.digits
    return [
        (component, Row(form or _form(storages.allocation(kind), count), sizes[size] * count, digits if form else None))
        for component, form, kind, size, count in cached
        if sizes[size]
    ]


class _Listed(NamedTuple):
    """A row without sizes.

    `form` is None if the names of its dimensions contain digits of sizes.
    """

    component: ComponentName
    form: RowForm | None
    kind: int
    size: int
    number: int


def _listed(storages: Storages, counts: Mapping[int, int]) -> list[_Listed]:
    size_of, traced, are_constant = storages.kinds.size_of, storages.traced, storages.digits is None
    listed = []
    for kind, count in counts.items():
        if count > 0:
            name, shape, dtype, component, _ = traced(kind)
            form = None
            if are_constant or all(map(_has_constant_name, shape)):
                form = RowForm(name, count, shape, dtype, _source(name, component))
            listed.append(_Listed(component, form, kind, size_of[kind], count))
    return listed


def _has_constant_name(dim: int) -> bool:
    return not isinstance(dim, SymInt) or dim.has_constant_name


def _form(allocation: Allocation, count: int) -> RowForm:
    name, shape, dtype, component, _ = allocation
    return RowForm(name, count, shape, dtype, _source(name, component))


def _resident_rows(resident: ResidentTensors) -> tuple[Row, ...]:
    """Return the rows of resident tensors.

    They are cached with the tensors, because every run with the tensors has them.
    """
    if resident.rows is None:
        listed = [(t.name, t.shape, t.dtype, t.component, t.count, t.bytes) for t in tensors((resident,)) if t.bytes]
        resident.rows = tuple([_row(*tensor) for tensor in listed])
    rows: tuple[Row, ...] = resident.rows
    return rows


def _row(name: str, shape: Shape, dtype: DType, component: ComponentName, count: int, size: int) -> Row:
    return Row(RowForm(name, count, shape, dtype, _source(name, component)), size)


@lru_cache(maxsize=4096)
def _source(name: str, component: ComponentName) -> str:
    """Return the source of a row."""
    if name.endswith(COPY):
        return AUTOCAST
    if name == ddp.NAME:
        return BUCKETS
    if name.startswith(zero.PREFIX):
        return zero.SOURCE
    return FSDP if name.endswith(UNIT_TENSORS) else SOURCES[component]


_SIZE = attrgetter("bytes")


def components(alive: LiveTensors) -> tuple[Component, ...]:
    """Return the non-empty components of a peak.

    The rows of a component are created when one is read.
    """
    ledger = Deferred(partial(rows, alive))
    step_bytes, resident_bytes = alive.step_components(), alive.group.by_component
    nonempty: list[Component] = []
    for name in COMPONENTS:
        size = resident_bytes.get(name, 0) + step_bytes.get(name, 0)
        if size and alive.left is None and name not in step_bytes:
            nonempty.append(_resident_component(alive.group, name))
        elif size:
            listed = Deferred(partial(_rows_of, ledger, name))
            nonempty.append(Component(name=name, bytes=size, source=SOURCES[name], listed=listed))
    return tuple(nonempty)


def _rows_of(ledger: Callable[[], dict[ComponentName, tuple[Row, ...]]], name: ComponentName) -> tuple[Row, ...]:
    return ledger()[name]


def _resident_component(group: TensorGroup, name: ComponentName) -> Component:
    """Return a component that consists of resident tensors alone.

    It is cached with the tensors, because every run with the tensors has it.
    """
    cached: Component | None = group.components.get(name)
    if cached is None:
        # A plain tuple, because a group with a reference cycle would wait for the garbage collector.
        listed = Deferred(partial(_rows_of_residents, tuple(group), name))
        size = group.by_component[name]
        cached = group.components[name] = Component(name=name, bytes=size, source=SOURCES[name], listed=listed)
    return cached


def _rows_of_residents(group: tuple[ResidentTensors, ...], name: ComponentName) -> tuple[Row, ...]:
    listed = [row for resident in group if resident.component == name for row in _resident_rows(resident)]
    return tuple(sorted(listed, key=_SIZE, reverse=True))
