"""The imports of a training script."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.interop.exports.literal import WIDTH
from app.interop.exports.script_optimizer import MODULES, OPTIMIZERS
from calculator.methods import Full, LoRA
from calculator.resident.optimizers import OPTIMIZERS as OPTIMIZER_FACTS

if TYPE_CHECKING:
    from app.interop.exports.script_kinds import MethodScript, TrainerScript
    from calculator.estimation.request import Request
    from calculator.methods import Method


def modules(request: Request, script: MethodScript, *, by_hand: bool) -> tuple[str, ...]:
    """Return the names of the modules that its code reads attributes of, and of peft."""
    optimizer = request.training.optimizer
    needed = {
        "bnb": by_hand or (request.training.trainer is None and OPTIMIZERS[optimizer].startswith("bnb.")),
        "peft": "peft" in script.imports,
        "nn": by_hand or "nn" in script.imports,
        "re": isinstance(request.method, Full) and request.method.trains_part,
    }
    module = MODULES.get(OPTIMIZER_FACTS[optimizer].package)
    if module is not None and request.training.trainer is None:
        needed[module] = True
    return tuple(name for name, is_needed in needed.items() if is_needed)


def from_transformers(request: Request, auto_model: str, trainer: TrainerScript, *, by_hand: bool) -> tuple[str, ...]:
    """Return the classes that it imports from transformers."""
    named = [auto_model, trainer.reader if request.model.id is not None else "AutoConfig"]
    if request.method.quantizes_base and not by_hand:
        named.append(quantization_call(request.method).partition("(")[0] or "BitsAndBytesConfig")
    if trainer.classes:
        named += ("PrinterCallback", "TrainerCallback", *(() if trainer.is_of_trl else trainer.classes))
    elif request.training.optimizer == "adafactor":
        named.append("Adafactor")
    if trainer.is_of_trl and request.model.id is None:
        named.append("PreTrainedTokenizerFast")
    return tuple(sorted(named))


def import_statement(package: str, names: tuple[str, ...]) -> str:
    """Return the statement that imports names, on one line if it is short enough."""
    line = f"from {package} import {', '.join(names)}"
    return line if len(line) <= WIDTH else "\n".join((f"from {package} import (", *(f"    {n}," for n in names), ")"))


def quantization_call(method: Method) -> str:
    """Return the call that makes the quantization_config of LoRA's base; empty for other methods."""
    return method.base.loading if isinstance(method, LoRA) and method.base is not None else ""
