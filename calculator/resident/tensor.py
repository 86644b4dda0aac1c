"""A tensor that a run keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from calculator.architecture.dimension import Shape, elements
from calculator.common.constructor import constructor
from calculator.common.dtype import ITEMSIZE, DType, allocated

if TYPE_CHECKING:
    from calculator.common.names import ComponentName


@dataclass(slots=True, kw_only=True, eq=False)
class ResidentTensor:
    """One kind of tensor that stays on the device.

    It is never changed. The class is not frozen, because a step has a hundred of them and a frozen dataclass takes
    twice as long to create.
    """

    #: The name. `*` replaces a layer's number.
    name: str
    shape: Shape
    dtype: DType
    component: ComponentName
    #: The number of tensors of this kind.
    count: int = 1
    #: The number of model parameters in each tensor. 0 for constants and buffers.
    parameters: int = 0
    trained: bool = False
    #: Whether it belongs to the model itself. A method adds the others.
    base: bool = True
    #: The dtype when the optimizer is created, if the first forward pass changes it.
    dtype_at_optimizer_init: DType | None = None
    #: Whether the step uses it.
    in_graph: bool = True
    #: Whether it holds weights in a format that is not dense, and whether the checkpoint has them in that format.
    packed: bool = False
    in_checkpoint: bool = False
    #: The shape of the storage that its gradient is a view of. None if its gradient has its own.
    gradient_base: Shape | None = None
    #: The bytes of all tensors, each rounded up to 512. Computed if 0.
    bytes: int = 0
    #: The row in a ledger, cached by the ledger.
    rows: Any = field(default=None, init=False, repr=False)

    @property
    def gets_gradient(self) -> bool:
        """Whether it is trained and the step gives it a gradient."""
        return self.trained and self.in_graph

    def stored_as(self, shape: Shape, dtype: DType, size: int) -> ResidentTensor:
        """Return the same parameter in another shape or dtype. `size` is the bytes of all tensors.

        dataclasses.replace takes several times as long.
        """
        return new_tensor(
            name=self.name,
            shape=shape,
            dtype=dtype,
            component=self.component,
            count=self.count,
            parameters=self.parameters,
            trained=self.trained,
            base=self.base,
            dtype_at_optimizer_init=self.dtype_at_optimizer_init,
            in_graph=self.in_graph,
            packed=self.packed,
            in_checkpoint=self.in_checkpoint,
            gradient_base=self.gradient_base,
            bytes=size,
        )

    def in_reference(self, name: str, *, base: bool) -> ResidentTensor:
        """Return the same tensor in a reference model, which is not trained.

        dataclasses.replace takes several times as long.
        """
        return new_tensor(
            name=name,
            shape=self.shape,
            dtype=self.dtype,
            component=self.component,
            count=self.count,
            base=base,
            in_graph=self.in_graph,
            packed=self.packed,
            in_checkpoint=self.in_checkpoint,
            gradient_base=self.gradient_base,
            bytes=self.bytes,
        )

    def __post_init__(self) -> None:
        if not self.bytes:
            self.bytes = allocated(elements(self.shape), ITEMSIZE[self.dtype]) * self.count


#: A faster constructor, for the dozens of tensors of a first estimate.
new_tensor = constructor(ResidentTensor)
