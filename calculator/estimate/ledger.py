"""What is alive at a peak, as rows and components: every figure is a fold over the storages."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, get_args

from calculator.common.deferred import Deferred
from calculator.common.names import ComponentName
from calculator.engine.autocast import COPY
from calculator.estimate.answer import Component, Row
from calculator.resident.per_parameter import tensors

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.engine.live_tensors import LiveTensors

#: Where each component's rows come from.
SOURCES: dict[ComponentName, str] = {
    "base_weights": "the model that transformers builds from this config.json; bitsandbytes.nn.Linear4bit in 4 bits",
    "quantization_constants": "bitsandbytes.functional.QuantState",
    "adapter_weights": "the modules that peft puts in; bottleneck adapters as their definition says",
    "gradients": "torch/csrc/autograd/functions/accumulate_grad.h: a gradient has its parameter's shape and dtype",
    "optimizer_states": "the optimizer's own state, from its second step on",
    "activations": "tools/autograd/derivatives.yaml of PyTorch: what each operation saves, and what it makes",
    "kv_cache": "transformers/cache_utils.py, DynamicLayer.update and DynamicSlidingWindowLayer.update",
    "logits_and_loss": "transformers/loss/loss_utils.py, ForCausalLMLoss; torch's cross_entropy",
    "workspace": "temporaries that the kernels and the optimizer's step allocate",
}

#: Where autocast's copies come from, whatever component they count to.
AUTOCAST = "ATen/autocast_mode.cpp of PyTorch, cached_cast: copies in autocast's dtype, trained weights' until it ends"


def rows(alive: LiveTensors) -> dict[ComponentName, tuple[Row, ...]]:
    """Everything alive at a peak, by component, the largest first."""
    found: dict[ComponentName, list[Row]] = {name: [] for name in get_args(ComponentName)}
    for name, shape, dtype, component, count, size in _storages(alive):
        if size:
            source = AUTOCAST if name.endswith(COPY) else SOURCES[component]
            row = Row(name=name, count=count, bytes=size, shape=shape, dtype=dtype, source=source)
            found[component].append(row)
    return {name: tuple(sorted(listed, key=_SIZE, reverse=True)) for name, listed in found.items()}


_SIZE = attrgetter("bytes")


def _storages(alive: LiveTensors) -> list[tuple[str, Shape, DType, ComponentName, int, int]]:
    told = [(s.name, s.shape, s.dtype, s.component, s.count, s.bytes) for s in tensors(alive.resident_tensors)]
    born = [(*born[:4], count, born[4] * count) for born, count in alive.kinds().items()]
    return told + born


def components(alive: LiveTensors) -> tuple[Component, ...]:
    """The peak by component; those that are empty there are left out. Their rows are made when one is read."""
    ledger = Deferred(partial(rows, alive))
    return tuple(
        [
            Component(name=name, bytes=size, source=SOURCES[name], listed=Deferred(partial(_of, ledger, name)))
            for name, size in alive.by_component().items()
            if size
        ]
    )


def _of(ledger: Callable[[], dict[ComponentName, tuple[Row, ...]]], name: ComponentName) -> tuple[Row, ...]:
    return ledger()[name]
