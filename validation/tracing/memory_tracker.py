"""A dispatch mode that records every storage that a step allocates and frees."""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from validation.tracing.accumulation import adds_in_place, unshared_reference_counts
from validation.tracing.emulations import kernel_for
from validation.tracing.ledger import Ledger, Storage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.common.names import ComponentName, PhaseName
    from validation.tracing.host_values import HostValues
    from validation.tracing.known_values import KnownValues
    from validation.tracing.module_tracker import ModuleTracker

#: Operations whose outputs are scratch wherever they run.
SCRATCH = frozenset({"bitsandbytes.dequantize_4bit", "bitsandbytes.dequantize_blockwise"})


class EmulatedKernels(TorchDispatchMode):
    """Runs the kernels of `emulations`, which allocate the scratch that meta kernels do not show."""

    def __init__(self, values: KnownValues | HostValues) -> None:
        super().__init__()
        self._values = values

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        kernel = kernel_for(func, args)
        if kernel is None:
            return self._values.run(func, args, kwargs or {})
        with self:
            return kernel(*args, **(kwargs or {}))


class MemoryTracker(TorchDispatchMode):
    """Records every storage on a device, the meta device by default, including those of emulated kernels."""

    def __init__(
        self,
        ledger: Ledger,
        modules: ModuleTracker,
        head: str | None,
        values: KnownValues | HostValues,
        device: str = "meta",
    ) -> None:
        super().__init__()
        unshared_reference_counts()
        self.ledger = ledger
        self._device = device
        self._values = values
        self._modules = modules
        self._loss_modules = {"", head}
        self._numbers: dict[int, int] = {}
        self._finalizers: dict[int, weakref.ref] = {}
        self._phase: PhaseName = "forward"
        self._emulated: str | None = None

    def enter(self, phase: PhaseName) -> None:
        """Begin a phase of the step."""
        self._phase = phase
        self.ledger.enter(phase)

    def restart(self) -> None:
        """Begin a new ledger with the storages that are alive now, as they were recorded."""
        alive = dict(sorted(self._numbers.items(), key=lambda item: item[1]))
        storages = self.ledger.storages
        self.ledger.restart([storages[number] for number in alive.values()])
        self._numbers = {key: number for number, key in enumerate(alive)}

    @contextmanager
    def tracking(self) -> Iterator[None]:
        """Track every operation inside the context."""
        with self._modules.tracking(), self:
            yield

    def live_bytes(self, component: ComponentName) -> int:
        """Bytes of a component that are alive now."""
        live = (self.ledger.storages[number] for number in self._numbers.values())
        return sum(storage.bytes for storage in live if storage.component == component)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and record what it allocates."""
        kwargs = kwargs or {}
        if self._phase == "backward" and func is torch.ops.aten.add.Tensor and adds_in_place(*args):
            return args[0].add_(args[1], **kwargs)
        op = _name(func)
        if self._phase != "optimizer_step" and self._modules.forward_module is not None:
            self._modules.record_node(op)
        kernel = kernel_for(func, args)
        if kernel is None:
            out = self._values.run(func, args, kwargs)
        else:
            with self._inside(op), self:
                out = kernel(*args, **kwargs)
        self._record(out, op)
        return out

    @contextmanager
    def _inside(self, op: str) -> Iterator[None]:
        """Mark operations inside the context as part of an emulated kernel."""
        outer, self._emulated = self._emulated, op
        try:
            yield
        finally:
            self._emulated = outer

    def _record(self, out: Any, op: str) -> None:
        if isinstance(out, torch.Tensor):
            self._record_tensor(out, op)
        elif isinstance(out, list | tuple):
            for item in out:
                self._record(item, op)

    def _record_tensor(self, tensor: torch.Tensor, op: str) -> None:
        storage = tensor.untyped_storage()
        if tensor.device.type != self._device:
            return
        number = self._numbers.get(storage._cdata)
        if number is None:
            module, op, moment = self._site(op)
            self._allocate(storage, tensor, module=module, op=op, moment=moment, component=self._component(module, op))
        elif self.ledger.storages[number].op.startswith(f"{op}/"):
            self._mark_as_output(self.ledger.storages[number], op)

    def _mark_as_output(self, storage: Storage, op: str) -> None:
        """Record a storage that an emulated kernel returns as its output instead of its scratch."""
        module, storage.op, _ = self._site(op)
        storage.component = self._component(module, storage.op)

    def _site(self, op: str) -> tuple[str, str, str]:
        """Where an operation allocates: the module's path, the operation, and the moment."""
        if self._emulated is not None and op != self._emulated:
            op = f"{self._emulated}/{op}"
        if self._phase == "optimizer_step":
            return "", op, "optimizer"
        module = self._modules.forward_module
        if module is not None:
            return module, op, "forward" if self._phase == "forward" else "recompute"
        if self._phase == "forward":
            return "", op, "forward"
        module, node = self._modules.backward_module()
        return module, f"{op}<{node}>", "backward"

    def _component(self, module: str, op: str) -> ComponentName:
        if self._phase == "optimizer_step" or "/" in op or op.partition("<")[0] in SCRATCH:
            return "workspace"
        return "logits_and_loss" if module in self._loss_modules else "activations"

    def track_external(self, name: str, tensor: torch.Tensor, component: ComponentName) -> None:
        """Record a tensor that exists before the step; a storage that is tracked already keeps its first entry."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._numbers and tensor.device.type == self._device:
            module, _, op = name.rpartition(".")
            self._allocate(storage, tensor, module=module, op=op, moment="static", component=component, name=name)

    def adopt(self, name: str, tensor: torch.Tensor, component: ComponentName) -> None:
        """Record a tracked tensor as one that exists before the step, such as an optimizer state of the step before."""
        number = self._numbers.get(tensor.untyped_storage()._cdata)
        if number is None:
            self.track_external(name, tensor, component)
            return
        storage = self.ledger.storages[number]
        storage.module, _, storage.op = name.rpartition(".")
        storage.name, storage.component, storage.moment = name, component, "static"

    def label(self, name: str, tensor: torch.Tensor, component: ComponentName) -> None:
        """Change the name and component of a tracked tensor's storage, such as a gradient's."""
        storage = self.ledger.storages[self._numbers[tensor.untyped_storage()._cdata]]
        storage.component, storage.name = component, name

    def _allocate(self, storage: torch.UntypedStorage, tensor: torch.Tensor, **fields: Any) -> None:
        if not storage.nbytes():
            return
        key, number = storage._cdata, len(self.ledger.storages)
        self._numbers[key] = number
        self._finalizers[key] = weakref.ref(storage, lambda _: self._free(key))
        self.ledger.allocate(
            Storage(
                number=number,
                shape=tuple(tensor.shape),
                dtype=str(tensor.dtype).removeprefix("torch."),
                nbytes=storage.nbytes(),
                **fields,
            )
        )

    def _free(self, key: int) -> None:
        del self._finalizers[key]
        self.ledger.free(self._numbers.pop(key))


def _name(func: Any) -> str:
    namespace, _, name = func._schema.name.partition("::")
    return f"{namespace}.{name}"
