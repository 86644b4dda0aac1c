"""The fine-tuning methods, one folder each. A method is registered by its place in `Method`."""

from typing import get_args

from calculator.common.names import MethodName
from calculator.methods.adapter.method import Adapter
from calculator.methods.full.method import Full
from calculator.methods.ia3.method import IA3
from calculator.methods.ln_tuning.method import LNTuning
from calculator.methods.lora.method import LoRA
from calculator.methods.prefix.method import Prefix
from calculator.methods.prompt.method import Prompt
from calculator.methods.qlora.method import QLoRA

Method = Full | LoRA | QLoRA | Adapter | Prefix | Prompt | IA3 | LNTuning

#: Every method by the name that a request gives.
METHODS: dict[MethodName, type[Method]] = {cls.name: cls for cls in get_args(Method)}

__all__ = ["IA3", "METHODS", "Adapter", "Full", "LNTuning", "LoRA", "Method", "Prefix", "Prompt", "QLoRA"]
