"""Where in the model the step is: the path of the module that runs, also for the backward of an operation."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules import module as hooks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

#: What wrappers put into a path: PEFT before a base layer and a saved module, an adapter before its sublayer.
WRAPPERS = re.compile(r"\.(base_layer|original_module|sublayer)(?=\.|$)")


def plain(path: str, root: str) -> str:
    """A module's or parameter's path as it was before a method wrapped the model at `root`."""
    inner = path.removeprefix(root).removeprefix(".") if path == root or path.startswith(f"{root}.") else path
    return WRAPPERS.sub("", inner)


class Places:
    """Follows which module runs, and remembers which module made each autograd node.

    A node's sequence number is the one that autograd gives to the operation that makes it, so an operation of the
    backward pass is traced back to the module whose forward it undoes.
    """

    def __init__(self, model: nn.Module, root: str) -> None:
        self._paths = {id(module): plain(path, root) for path, module in model.named_modules()}
        if root:
            self._paths[id(model)] = type(model).__name__
        self._stack: list[str] = []
        self._nodes: dict[int, tuple[str, str]] = {}

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Follow every module's forward while the context lasts."""
        before = hooks.register_module_forward_pre_hook(self._enter)
        after = hooks.register_module_forward_hook(self._leave, always_call=True)
        try:
            yield
        finally:
            before.remove()
            after.remove()

    def _enter(self, module: nn.Module, _args: Any) -> None:
        self._stack.append(self._paths.get(id(module), type(module).__name__))

    def _leave(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self._stack.pop()

    @property
    def module(self) -> str | None:
        """The path of the module whose forward runs; None outside of any."""
        return self._stack[-1] if self._stack else None

    def made(self, op: str) -> None:
        """Remember the module and operation that make the newest autograd node."""
        self._nodes.setdefault(torch.autograd._get_sequence_nr() - 1, (self._stack[-1], op))

    def undone(self) -> tuple[str, str]:
        """The module, and the operation, whose backward runs."""
        node = torch._C._current_autograd_node()
        if node is None:
            return "", "backward"
        module, _ = self._nodes.get(node._sequence_nr(), ("", ""))
        return module, node.name().removeprefix("torch::autograd::")
