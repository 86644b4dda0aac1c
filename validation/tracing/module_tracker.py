"""The module that runs, by its path, also while autograd runs the backward of its operations."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules import module as hooks

from validation.reference.module_paths import unwrapped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


class ModuleTracker:
    """Tracks which module runs, and which module created each autograd node.

    Autograd gives each node a sequence number when an operation creates it. A backward operation runs inside its node,
    so the number leads back to the module whose forward created the node.
    """

    def __init__(self, model: nn.Module, root: str) -> None:
        self._paths = {id(module): unwrapped(path, root) for path, module in model.named_modules()}
        if root:
            self._paths[id(model)] = type(model).__name__
        self._stack: list[str] = []
        self._nodes: dict[int, tuple[str, str]] = {}

    @contextmanager
    def tracking(self) -> Iterator[None]:
        """Track every module's forward inside the context."""
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
    def forward_module(self) -> str | None:
        """The path of the module whose forward runs; None outside of any."""
        return self._stack[-1] if self._stack else None

    def record_node(self, op: str) -> None:
        """Record the module and operation that created the newest autograd node."""
        self._nodes.setdefault(torch.autograd._get_sequence_nr() - 1, (self._stack[-1], op))

    def backward_module(self) -> tuple[str, str]:
        """Return the module, and the autograd node, whose backward runs."""
        node = torch._C._current_autograd_node()
        if node is None:
            return "", "backward"
        module, _ = self._nodes.get(node._sequence_nr(), ("", ""))
        return module, node.name().removeprefix("torch::autograd::")
