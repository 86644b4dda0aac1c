"""The bound modules of one layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calculator.architecture.layer_kind import LayerKind
    from calculator.layers.bound_module import BoundModule


class LayerModules:
    """The bound modules of one layer."""

    __slots__ = ("kind", "modules", "prefix")

    def __init__(self, modules: dict[str, BoundModule], prefix: str, kind: LayerKind) -> None:
        self.modules = modules
        #: The path of the layer, with `*` for its number.
        self.prefix = prefix
        self.kind = kind

    @property
    def names(self) -> list[str]:
        """The names of the layer's parameters in order.

        The parameters of each submodule follow the submodule's name.
        """
        return [
            name
            for module in self.modules.values()
            for name in (*(f"{module.name}.{parameter.name}" for parameter in module.module.parameters), module.name)
        ]

    def __getitem__(self, name: str) -> BoundModule:
        return self.modules[name]

    def __contains__(self, name: Any) -> bool:
        return name in self.modules
