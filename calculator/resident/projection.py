"""Low-rank projections of gradients: GaLore's (Zhao et al. 2024) and APOLLO's (Zhu et al. 2024).

Sources: galore_torch/galore_projector.py; apollo_torch/random_projector.py and svd_projector.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import named

if TYPE_CHECKING:
    from calculator.architecture.dimension import Dim, Shape
    from calculator.common.dtype import DType

#: Which side of a gradient is projected: its columns (`right`) or its rows (`left`).
Side = Literal["left", "right"]

#: How the side follows from a gradient's shape.
ProjectionType = Literal["std", "reverse_std", "left", "right"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """The projection of a matrix's gradient to a rank.

    Attributes:
        rank: The rank, as `optim_args` sets it.
        proj_type: Which side is projected.
        decomposes: Whether the projection is made of singular vectors, or else of random numbers.
        by_channel: Whether APOLLO has a scaling factor for each channel, or else one for each matrix.
    """

    rank: int
    proj_type: ProjectionType = "std"
    decomposes: bool = True
    by_channel: bool = True

    def side(self, shape: Shape) -> Side:
        """The side of a gradient that is projected."""
        if self.proj_type in ("left", "right"):
            return "left" if self.proj_type == "left" else "right"
        is_tall = shape[0] >= shape[1]
        return "right" if is_tall == (self.proj_type == "std") else "left"

    def rank_of(self, shape: Shape) -> Dim:
        """The rank that a gradient's projection has: of singular vectors, there are no more than the smaller side."""
        return named(min(self.rank, *shape) if self.decomposes else self.rank, "rank")

    def projected(self, shape: Shape) -> Shape:
        """The shape of a projected gradient."""
        rank = self.rank_of(shape)
        return (shape[0], rank) if self.side(shape) == "right" else (rank, shape[1])

    def matrix(self, shape: Shape) -> Shape:
        """The shape of the projection."""
        rank = self.rank_of(shape)
        return (rank, shape[1]) if self.side(shape) == "right" else (shape[0], rank)

    def kept(self, shape: Shape, dtype: DType) -> Shape:
        """The shape of what stays of a projection: in float32 a view of all singular vectors, which it keeps alive."""
        if not self.decomposes or dtype != "float32":
            return self.matrix(shape)
        return (min(shape), shape[1]) if self.side(shape) == "right" else (shape[0], min(shape))
