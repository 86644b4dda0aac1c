"""Bottleneck adapters (Houlsby et al. 2019; Pfeiffer et al. 2020)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from calculator.methods.base import Method
from calculator.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter(Method):
    """up(act(down(x))) with biases, added to its input: 2·d·r + r + d parameters each."""

    name: ClassVar[str] = "adapter"

    bottleneck_size: int = setting(
        64, label="Bottleneck size", help="The adapter's inner width r.", minimum=1, maximum=65_536, example=64
    )
    placement: Literal["houlsby", "pfeiffer"] = setting(
        "houlsby", label="Placement", help="After attention and after the MLP (houlsby), or after the MLP (pfeiffer)."
    )
    non_linearity: Literal["relu", "gelu", "silu", "tanh"] = setting(
        "relu", label="Non-linearity", help="The function between the two projections."
    )
