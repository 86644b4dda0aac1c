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

#: The side of a gradient that is projected: its columns (`right`) or its rows (`left`).
Side = Literal["left", "right"]

#: The rules by which a gradient's shape determines the projected side.
ProjectionType = Literal["std", "reverse_std", "left", "right"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """The projection of a matrix's gradient to a rank.

    Attributes:
        rank: The rank that `optim_args` sets.
        proj_type: The side that is projected.
        decomposes: Whether the projection consists of singular vectors. Otherwise it consists of random numbers.
        by_channel: Whether APOLLO has a scaling factor for each channel. Otherwise it has one for each matrix.
    """

    rank: int
    proj_type: ProjectionType = "std"
    decomposes: bool = True
    by_channel: bool = True

    def side(self, shape: Shape) -> Side:
        """Return the side of a gradient that is projected."""
        if self.proj_type in ("left", "right"):
            return "left" if self.proj_type == "left" else "right"
        is_tall = shape[0] >= shape[1]
        return "right" if is_tall == (self.proj_type == "std") else "left"

    def rank_of(self, shape: Shape) -> Dim:
        """Return the rank of a gradient's projection.

        There are no more singular vectors than the smaller side has elements.
        """
        return named(min(self.rank, *shape) if self.decomposes else self.rank, "rank")

    def projected(self, shape: Shape) -> Shape:
        """Return the shape of a projected gradient."""
        rank = self.rank_of(shape)
        return (shape[0], rank) if self.side(shape) == "right" else (rank, shape[1])

    def matrix(self, shape: Shape) -> Shape:
        """Return the shape of the projection."""
        rank = self.rank_of(shape)
        return (rank, shape[1]) if self.side(shape) == "right" else (shape[0], rank)

    def scales(self, shape: Shape) -> bool:
        """Return whether APOLLO's scaling factors fit a gradient: those of channels are of the side that std projects.

        Source: apollo_torch/apollo.py, AdamW.step.
        """
        side = self.side(shape)
        if not self.by_channel or side == ("right" if shape[0] >= shape[1] else "left"):
            return True
        return self.rank_of(shape) in (1, shape[0] if side == "left" else shape[1])

    def kept(self, shape: Shape, dtype: DType) -> Shape:
        """Return the shape of the storage that a projection keeps alive.

        In float32, the projection is a view of all singular vectors.
        """
        if not self.decomposes or dtype != "float32":
            return self.matrix(shape)
        return (min(shape), shape[1]) if self.side(shape) == "right" else (shape[0], min(shape))
