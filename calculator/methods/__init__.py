"""The fine-tuning methods, one file each, by the name that a request gives them."""

from calculator.methods.adapter import Adapter
from calculator.methods.full import Full
from calculator.methods.lora import LoRA
from calculator.methods.prefix import Prefix
from calculator.methods.prompt import Prompt
from calculator.methods.qlora import QLoRA

Method = Full | LoRA | QLoRA | Adapter | Prefix | Prompt

METHODS: dict[str, type[Method]] = {cls.name: cls for cls in (Full, LoRA, QLoRA, Adapter, Prefix, Prompt)}

__all__ = ["METHODS", "Adapter", "Full", "LoRA", "Method", "Prefix", "Prompt", "QLoRA"]
