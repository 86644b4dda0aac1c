"""A dispatch mode that records every storage that a step allocates and frees."""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from validation.tracing.accumulation import adds_in_place, unshared_reference_counts
from validation.tracing.emulations import kernel_for
from validation.tracing.ledger import Ledger, Storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.common.names import ComponentName, PhaseName
    from validation.tracing.host_values import HostValues
    from validation.tracing.known_values import KnownValues
    from validation.tracing.module_tracker import ModuleTracker

#: Operations that take indices. Before PyTorch 2.15, no dispatch mode sees how a Python list becomes a tensor of them.
INDEXING = frozenset({torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default})

#: The operation that returns such a tensor from PyTorch 2.15 on.
LIST_TO_INDICES = "aten.lift_fresh"

#: Operations whose outputs are scratch wherever they run.
SCRATCH = frozenset({"bitsandbytes.dequantize_4bit", "bitsandbytes.dequantize_blockwise"})


class EmulatedKernels(TorchDispatchMode):
    """Runs the kernels of `emulations`, which allocate the scratch that meta kernels do not show.

    Operations on tensors of the classes `wrappers` are left to these classes, which run them on the tensors inside.
    """

    def __init__(self, values: KnownValues | HostValues, wrappers: tuple[type, ...] = ()) -> None:
        super().__init__()
        self._values, self._wrappers = values, wrappers

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        if self._wrappers and any(issubclass(type_, self._wrappers) for type_ in types):
            return NotImplemented
        kernel = kernel_for(func, args)
        if kernel is None:
            return self._values.run(func, args, kwargs or {})
        with self:
            return kernel(*args, **(kwargs or {}))


class MemoryTracker(TorchDispatchMode):
    """Records every storage on a device, the meta device by default, including those of emulated kernels.

    Operations on tensors of the classes `wrappers` are left to these classes, which run them on the tensors inside.
    `stream` is the name of the stream that allocates, empty for the default one.
    """

    def __init__(
        self,
        ledger: Ledger,
        modules: ModuleTracker,
        head: str | None,
        values: KnownValues | HostValues,
        *,
        wrappers: tuple[type, ...] = (),
        stream: Callable[[], str] = str,
        device: str = "meta",
    ) -> None:
        super().__init__()
        unshared_reference_counts()
        self.ledger = ledger
        self._values = values
        self._modules = modules
        self._loss_modules = {"", head}
        self._numbers: dict[int, int] = {}
        self._finalizers: dict[int, weakref.ref] = {}
        self._phase: PhaseName = "forward"
        self._emulated: str | None = None
        self._wrappers, self._stream, self._device = wrappers, stream, device
        self._owner: tuple[str, str, ComponentName] | None = None
        self._resized: dict[int, tuple[weakref.ref, Storage]] = {}

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
        """Return bytes of a component that are alive now."""
        live = (self.ledger.storages[number] for number in self._numbers.values())
        return sum(storage.bytes for storage in live if storage.component == component)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and record what it allocates."""
        if self._wrappers and any(issubclass(type_, self._wrappers) for type_ in types):
            return NotImplemented
        kwargs = kwargs or {}
        if self._phase == "backward" and func is torch.ops.aten.add.Tensor and adds_in_place(*args):
            return args[0].add_(args[1], **kwargs)
        op = _name(func)
        if self._phase != "optimizer_step" and self._modules.forward_module is not None:
            self._modules.record_node(op)
        if func in INDEXING:
            self._record(args[1], LIST_TO_INDICES)
        kernel = kernel_for(func, args)
        if kernel is None:
            out = self._values.run(func, args, kwargs)
        else:
            with self._in_kernel(op), self:
                out = kernel(*args, **kwargs)
        self._record(out, op)
        return out

    @contextmanager
    def _in_kernel(self, op: str) -> Iterator[None]:
        """Mark operations inside the context as part of an emulated kernel."""
        outer, self._emulated = self._emulated, op
        try:
            yield
        finally:
            self._emulated = outer

    @contextmanager
    def owner(self, module: str, op: str, component: ComponentName = "workspace") -> Iterator[None]:
        """Record what is allocated inside the context under a module and an operation of the caller's."""
        outer, self._owner = self._owner, (module, op, component)
        try:
            yield
        finally:
            self._owner = outer

    def _record(self, out: Any, op: str) -> None:
        if isinstance(out, torch.Tensor):
            self._record_tensor(out, op)
        elif isinstance(out, list | tuple):
            for item in out:
                self._record(item, op)

    def _record_tensor(self, tensor: torch.Tensor, op: str) -> None:
        if tensor.layout is torch.sparse_coo:
            return  # its indices and values are dense tensors
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
        """Return where an operation allocates: the module's path, the operation, and the moment."""
        if self._emulated is not None and op != self._emulated:
            op = f"{self._emulated}/{op}"
        if self._owner is not None:
            return *self._owner[:2], self._moment()
        if self._phase == "optimizer_step":
            return "", op, "optimizer"
        module = self._modules.forward_module
        if module is not None:
            return module, op, self._moment()
        if self._phase in ("generation", "forward"):
            return "", op, self._phase
        module, node = self._modules.backward_module()
        return module, f"{op}<{node}>", "backward"

    def _moment(self) -> str:
        if self._phase == "optimizer_step":
            return "optimizer"
        inside = self._modules.forward_module is not None
        return "recompute" if self._phase == "backward" and inside else self._phase

    def _component(self, module: str, op: str) -> ComponentName:
        if self._owner is not None:
            return self._owner[2]
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
        """Record a tracked tensor as one that exists before the step, such as an optimizer state of the step before.

        A storage that is recorded as such already keeps its first entry.
        """
        key = tensor.untyped_storage()._cdata
        if key in self._numbers:
            storage = self.ledger.storages[self._numbers[key]]
        elif key in self._resized:
            storage = self._resized[key][1]
        else:
            self.track_external(name, tensor, component)
            return
        if storage.moment == "static":
            return
        storage.module, _, storage.op = name.rpartition(".")
        storage.name, storage.component, storage.moment = name, component, "static"

    def label(self, name: str, tensor: torch.Tensor, component: ComponentName) -> None:
        """Change the name and component of a tracked tensor's storage, such as a gradient's."""
        storage = self.ledger.storages[self._numbers[tensor.untyped_storage()._cdata]]
        storage.component, storage.name = component, name

    def number(self, tensor: torch.Tensor) -> int:
        """Return the number of a tracked tensor's storage."""
        return self._numbers[tensor.untyped_storage()._cdata]

    def forget(self, tensor: torch.Tensor) -> None:
        """Record a tracked tensor no longer: it is on the host in a real run."""
        key = tensor.untyped_storage()._cdata
        if key in self._numbers:
            self._freed(key)

    def resized(self, storage: torch.UntypedStorage) -> None:
        """Record that a storage was resized: it is freed, and allocated again unless it is empty now."""
        key = storage._cdata
        if key in self._numbers:
            self._resized[key] = weakref.ref(storage, lambda _: self._resized.pop(key)), self._freed(key)
        if storage.nbytes():
            self._add(storage, self._renamed_record(storage))

    def _renamed_record(self, storage: torch.UntypedStorage) -> Storage:
        """Return the record of a storage that has been resized, under the name that it had before."""
        module, op, moment = self._site("resize_")
        changes = {"nbytes": storage.nbytes(), "moment": moment, "stream": self._stream()}
        if storage._cdata in self._resized:
            return replace(self._resized.pop(storage._cdata)[1], **changes)
        component = self._component(module, op)
        return Storage(
            number=0, module=module, op=op, shape=(storage.nbytes(),), dtype="uint8", component=component, **changes
        )

    def _allocate(self, storage: torch.UntypedStorage, tensor: torch.Tensor, **fields: Any) -> None:
        dtype = str(tensor.dtype).removeprefix("torch.")
        row = Storage(number=0, shape=tuple(tensor.shape), dtype=dtype, nbytes=storage.nbytes(), **fields)
        if storage.nbytes():
            self._add(storage, replace(row, stream=self._stream()))
        elif fields["moment"] == "static" and storage._cdata not in self._resized:
            key = storage._cdata
            self._resized[key] = weakref.ref(storage, lambda _: self._resized.pop(key)), row

    def _add(self, storage: torch.UntypedStorage, row: Storage) -> None:
        key, row.number = storage._cdata, len(self.ledger.storages)
        self._numbers[key] = row.number
        self._finalizers[key] = weakref.ref(storage, lambda _: self._freed(key))
        self.ledger.allocate(row)

    def _freed(self, key: int) -> Storage:
        del self._finalizers[key]
        number = self._numbers.pop(key)
        self.ledger.free(number)
        return self.ledger.storages[number]


def _name(func: Any) -> str:
    namespace, _, name = func._schema.name.partition("::")
    return f"{namespace}.{name}"
