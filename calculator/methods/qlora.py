"""QLoRA (Dettmers et al. 2023): LoRA over a base stored in 4 bits."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from calculator.methods.settings import LowRank
from calculator.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class QLoRA(LowRank):
    """LoRA over linear layers that bitsandbytes stores in 4 bits and dequantises for each product."""

    name: ClassVar[str] = "qlora"

    quant_type: Literal["nf4", "fp4"] = setting("nf4", label="4-bit type", help="NormalFloat4 or 4-bit floating point.")
    double_quant: bool = setting(
        True, label="Double quantisation", help="Quantise the block constants too (section 3 of the paper)."
    )
    blocksize: int = setting(64, label="Block size", help="Weights that share one constant.", minimum=32, maximum=4096)
    prepare_model_for_kbit_training: bool = setting(
        True,
        label="Prepare for k-bit training",
        help="Cast everything that is not in 4 bits to float32, as PEFT's function of that name does.",
    )
