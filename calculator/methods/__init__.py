"""The fine-tuning methods, one folder each. A method is registered by its place in `Method`."""

from typing import get_args

from calculator.common.names import MethodName
from calculator.methods.adalora.method import AdaLoRA
from calculator.methods.adamss.method import AdaMSS
from calculator.methods.adapter.method import Adapter
from calculator.methods.adaption_prompt.method import AdaptionPrompt
from calculator.methods.beft.method import BEFT
from calculator.methods.bitfit.method import BitFit
from calculator.methods.boft.method import BOFT
from calculator.methods.c3a.method import C3A
from calculator.methods.deft.method import DEFT
from calculator.methods.delora.method import DeLoRA
from calculator.methods.fourierft.method import FourierFT
from calculator.methods.full.method import Full
from calculator.methods.glora.method import GLoRA
from calculator.methods.gralora.method import GraLoRA
from calculator.methods.hira.method import HiRA
from calculator.methods.hra.method import HRA
from calculator.methods.ia3.method import IA3
from calculator.methods.lily.method import Lily
from calculator.methods.ln_tuning.method import LNTuning
from calculator.methods.loha.method import LoHa
from calculator.methods.lokr.method import LoKr
from calculator.methods.lora.method import LoRA
from calculator.methods.miss.method import MiSS
from calculator.methods.oft.method import OFT
from calculator.methods.osf.method import OSF
from calculator.methods.p_tuning.method import PTuning
from calculator.methods.peanut.method import PEANuT
from calculator.methods.prefix.method import Prefix
from calculator.methods.prompt.method import Prompt
from calculator.methods.psoft.method import PSOFT
from calculator.methods.pvera.method import PVeRA
from calculator.methods.qlora.method import QLoRA
from calculator.methods.randlora.method import RandLoRA
from calculator.methods.road.method import RoAd
from calculator.methods.shira.method import SHiRA
from calculator.methods.tinylora.method import TinyLoRA
from calculator.methods.trainable_tokens.method import TrainableTokens
from calculator.methods.unilora.method import UniLoRA
from calculator.methods.vblora.method import VBLoRA
from calculator.methods.vera.method import VeRA
from calculator.methods.waveft.method import WaveFT
from calculator.methods.xlora.method import XLoRA

Method = (
    Full
    | LoRA
    | QLoRA
    | Adapter
    | Prefix
    | Prompt
    | IA3
    | LNTuning
    | MiSS
    | VeRA
    | LoHa
    | LoKr
    | BEFT
    | HiRA
    | DeLoRA
    | GraLoRA
    | HRA
    | RandLoRA
    | OFT
    | RoAd
    | PTuning
    | FourierFT
    | TrainableTokens
    | DEFT
    | VBLoRA
    | PVeRA
    | AdaLoRA
    | TinyLoRA
    | PEANuT
    | GLoRA
    | PSOFT
    | C3A
    | UniLoRA
    | Lily
    | SHiRA
    | BOFT
    | BitFit
    | WaveFT
    | AdaptionPrompt
    | OSF
    | AdaMSS
    | XLoRA
)

#: Every method by the name that a request gives.
METHODS: dict[MethodName, type[Method]] = {cls.name: cls for cls in get_args(Method)}

#: The methods whose quality is documented. A plan tries them, and a comparison lists them if a request names none.
USUAL_METHODS: tuple[MethodName, ...] = tuple(
    name for name, cls in METHODS.items() if cls.facts.quality_tier is not None
)

__all__ = [
    "BEFT",
    "BOFT",
    "C3A",
    "DEFT",
    "HRA",
    "IA3",
    "METHODS",
    "OFT",
    "OSF",
    "PSOFT",
    "USUAL_METHODS",
    "AdaLoRA",
    "AdaMSS",
    "Adapter",
    "AdaptionPrompt",
    "BitFit",
    "DeLoRA",
    "FourierFT",
    "Full",
    "GLoRA",
    "GraLoRA",
    "HiRA",
    "LNTuning",
    "Lily",
    "LoHa",
    "LoKr",
    "LoRA",
    "Method",
    "MiSS",
    "PEANuT",
    "PTuning",
    "PVeRA",
    "Prefix",
    "Prompt",
    "QLoRA",
    "RandLoRA",
    "RoAd",
    "SHiRA",
    "TinyLoRA",
    "TrainableTokens",
    "UniLoRA",
    "VBLoRA",
    "VeRA",
    "WaveFT",
    "XLoRA",
]
