"""Watches every operation of a step and books each new storage, and each freed one, in a ledger."""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from validation.tracing.accumulation import in_place, uses_when_only
from validation.tracing.emulations import KERNELS
from validation.tracing.ledger import Ledger, Storage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.common.names import ComponentName, PhaseName
    from validation.tracing.known_values import Values
    from validation.tracing.module_tracker import Places

#: Operations whose outputs are scratch wherever they run.
SCRATCH = frozenset({"bitsandbytes.dequantize_4bit", "bitsandbytes.dequantize_blockwise"})


class Emulated(TorchDispatchMode):
    """Runs the kernels whose scratch their meta versions hide as they are written out in `emulations`."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self._values = values

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        kernel = KERNELS.get(func)
        if kernel is None:
            return self._values.run(func, args, kwargs or {})
        return kernel(*args, **(kwargs or {}))


class Watch(TorchDispatchMode):
    """Books every storage on the meta device, those of the emulated kernels too."""

    def __init__(self, ledger: Ledger, places: Places, head: str | None, values: Values) -> None:
        super().__init__()
        uses_when_only()
        self.ledger = ledger
        self._values = values
        self._places = places
        self._loss = {"", head}
        self._numbers: dict[int, int] = {}
        self._guards: dict[int, weakref.ref] = {}
        self._phase: PhaseName = "forward"
        self._scratch: str | None = None

    def enter(self, phase: PhaseName) -> None:
        """Begin a phase of the step."""
        self._phase = phase
        self.ledger.enter(phase)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the context lasts."""
        with self._places.followed(), self:
            yield

    def alive(self, component: ComponentName) -> int:
        """Bytes of a component that are alive now."""
        booked = (self.ledger.storages[number] for number in self._numbers.values())
        return sum(storage.bytes for storage in booked if storage.component == component)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and book what it allocates."""
        kwargs = kwargs or {}
        if self._phase == "backward" and func is torch.ops.aten.add.Tensor and in_place(*args):
            return args[0].add_(args[1], **kwargs)
        op = _name(func)
        if self._phase != "optimizer_step" and self._places.module is not None:
            self._places.made(op)
        kernel = KERNELS.get(func)
        if kernel is None:
            out = self._values.run(func, args, kwargs)
        else:
            with self._within(op), self:
                out = kernel(*args, **kwargs)
        self._book(out, op)
        return out

    @contextmanager
    def _within(self, op: str) -> Iterator[None]:
        outer, self._scratch = self._scratch, op
        try:
            yield
        finally:
            self._scratch = outer

    def _book(self, out: Any, op: str) -> None:
        if isinstance(out, torch.Tensor):
            self._meet(out, op)
        elif isinstance(out, list | tuple):
            for item in out:
                self._book(item, op)

    def _meet(self, tensor: torch.Tensor, op: str) -> None:
        storage = tensor.untyped_storage()
        if tensor.device.type != "meta":
            return
        number = self._numbers.get(storage._cdata)
        if number is None:
            module, op, moment = self._place(op)
            self._birth(storage, tensor, module=module, op=op, moment=moment, component=self._component(module, op))
        elif self.ledger.storages[number].op.startswith(f"{op}/"):
            self._return(self.ledger.storages[number], op)

    def _return(self, booked: Storage, op: str) -> None:
        """Book what an emulated kernel allocated and gives back as its output, no longer as its scratch."""
        module, booked.op, _ = self._place(op)
        booked.component = self._component(module, booked.op)

    def _place(self, op: str) -> tuple[str, str, str]:
        if self._scratch is not None and op != self._scratch:
            op = f"{self._scratch}/{op}"
        if self._phase == "optimizer_step":
            return "", op, "optimizer"
        module = self._places.module
        if module is not None:
            return module, op, "forward" if self._phase == "forward" else "recompute"
        if self._phase == "forward":
            return "", op, "forward"
        module, node = self._places.undone()
        return module, f"{op}<{node}>", "backward"

    def _component(self, module: str, op: str) -> ComponentName:
        if self._phase == "optimizer_step" or "/" in op or op.partition("<")[0] in SCRATCH:
            return "workspace"
        return "logits_and_loss" if module in self._loss else "activations"

    def adopt(self, name: str, tensor: torch.Tensor, component: ComponentName) -> None:
        """Book a tensor that is there before the step; a storage that is known already keeps its first entry."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._numbers and tensor.device.type == "meta":
            module, _, op = name.rpartition(".")
            self._birth(storage, tensor, module=module, op=op, moment="static", component=component, name=name)

    def claim(self, name: str, tensor: torch.Tensor, component: ComponentName) -> None:
        """Give a storage that was born as something else its component and name, such as a gradient's."""
        booked = self.ledger.storages[self._numbers[tensor.untyped_storage()._cdata]]
        booked.component, booked.name = component, name

    def _birth(self, storage: torch.UntypedStorage, tensor: torch.Tensor, **told: Any) -> None:
        if not storage.nbytes():
            return
        key, number = storage._cdata, len(self.ledger.storages)
        self._numbers[key] = number
        self._guards[key] = weakref.ref(storage, lambda _: self._death(key))
        self.ledger.birth(
            Storage(
                number=number,
                shape=tuple(tensor.shape),
                dtype=str(tensor.dtype).removeprefix("torch."),
                nbytes=storage.nbytes(),
                **told,
            )
        )

    def _death(self, key: int) -> None:
        del self._guards[key]
        self.ledger.death(self._numbers.pop(key))


def _name(func: Any) -> str:
    namespace, _, name = func._schema.name.partition("::")
    return f"{namespace}.{name}"
