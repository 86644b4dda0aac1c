"""The bound modules of one layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.architecture.layer_kind import LayerKind
    from calculator.layers.bound_module import BoundModule


class LayerModules(dict[str, "BoundModule"]):
    """The bound modules of one layer by their names in the layer."""

    __slots__ = ("kind", "prefix")

    def __init__(self, modules: dict[str, BoundModule], prefix: str, kind: LayerKind) -> None:
        super().__init__(modules)
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
            for module in self.values()
            for name in (*(f"{module.name}.{parameter.name}" for parameter in module.module.parameters), module.name)
        ]
