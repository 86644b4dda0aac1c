"""Weights of adapters that no pass has read yet: DeepSpeed adds them to a layer when the layer's code first reads them.

A reference's passes without adapters read none. DeepSpeed caches what a call releases by its module and its place in
the order of modules. So if such a pass follows the recorded order of another one before the first pass with adapters,
the same call keeps these weights gathered in all later steps.

Source: deepspeed/runtime/zero/parameter_offload.py, ZeROOrderedDict.__getitem__;
deepspeed/runtime/zero/partitioned_param_coordinator.py, __params_to_release (functools.lru_cache).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.sharding.zero3.program import NO_GRAD_FORWARD

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from calculator.sharding.zero3.parameters import Module, Partitioned
    from calculator.sharding.zero3.segment import Segment


class Unread:
    """The modules that do not own the adapters' weights that they read, until a run with adapters."""

    def __init__(self, modules: Iterable[Module]) -> None:
        self._whole: dict[Module, list[Partitioned]] = {}
        for module in modules:
            if module.read:
                self._whole[module] = module.parameters
                module.parameters = [parameter for parameter in module.parameters if parameter not in module.read]

    def read(self, run: Sequence[Segment]) -> None:
        """Let modules own what they read, unless the run is one without adapters."""
        if self._whole and not _is_without_adapters(run):
            for module, parameters in self._whole.items():
                module.parameters = parameters
            self._whole = {}


def _is_without_adapters(run: Sequence[Segment]) -> bool:
    return any(kind == NO_GRAD_FORWARD for segment in run for _, kind, *_ in segment.events)
