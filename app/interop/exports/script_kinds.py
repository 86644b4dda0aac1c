"""The training script of each method and of each trainer: its template, its classes and its imports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from app.interop.exports import bottleneck

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.common.names import MethodName, TrainerName


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodScript:
    """The lines that a method adds to the script."""

    #: The template in templates/exports/methods, which extends that of the whole script.
    template: str = "peft_config"
    #: The packages that its code names.
    imports: tuple[str, ...] = ("peft",)
    #: Additional variables of the template.
    context: Callable[[Any], dict[str, Any]] = lambda _: {}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerScript:
    """The script of a training loop."""

    #: The template in templates/exports, which those of the methods extend.
    template: str
    #: The trainer's class and that of its settings.
    classes: tuple[str, ...] = ()
    #: The module of TRL that they are in; empty for those of transformers.
    module: str = ""
    #: Whether it tokenizes texts and adds the adapters itself.
    adds_adapters: bool = False
    #: The content of a row of its dataset.
    row: Literal["tokens", "pair", "rated answer", "pair of texts", "prompt"] = "tokens"
    #: Whether it takes a second model as the reference.
    takes_reference: bool = False
    #: The class of its model if it differs from the family's, and PEFT's name of its task if it has one.
    auto_model: str = ""
    #: The class that reads a row for a model with a hub id.
    reader: Literal["AutoTokenizer", "AutoProcessor"] = "AutoTokenizer"
    task_type: str | None = "CAUSAL_LM"

    @property
    def is_of_trl(self) -> bool:
        """Whether its classes are in TRL."""
        return bool(self.module)


#: The script of each trainer that has one.
TRAINER_SCRIPTS: dict[TrainerName | None, TrainerScript] = {
    None: TrainerScript(template="peft"),
    "transformers": TrainerScript(template="trainer", classes=("Trainer", "TrainingArguments")),
    "trl-sft": TrainerScript(template="trainer", classes=("SFTTrainer", "SFTConfig"), module="trl"),
    "trl-dpo": TrainerScript(
        template="preference",
        classes=("DPOTrainer", "DPOConfig"),
        module="trl",
        adds_adapters=True,
        row="pair",
        takes_reference=True,
    ),
    "trl-kto": TrainerScript(
        template="preference",
        classes=("KTOTrainer", "KTOConfig"),
        module="trl",
        adds_adapters=True,
        row="rated answer",
        takes_reference=True,
    ),
    "trl-orpo": TrainerScript(
        template="preference",
        classes=("ORPOTrainer", "ORPOConfig"),
        module="trl.experimental.orpo",
        adds_adapters=True,
        row="pair",
    ),
    "trl-reward": TrainerScript(
        template="preference",
        classes=("RewardTrainer", "RewardConfig"),
        module="trl",
        adds_adapters=True,
        row="pair of texts",
        auto_model="AutoModelForSequenceClassification",
        task_type="SEQ_CLS",
    ),
    "trl-grpo": TrainerScript(
        template="preference", classes=("GRPOTrainer", "GRPOConfig"), module="trl", adds_adapters=True, row="prompt"
    ),
    "trl-rloo": TrainerScript(
        template="preference", classes=("RLOOTrainer", "RLOOConfig"), module="trl", adds_adapters=True, row="prompt"
    ),
}

#: The trainers whose settings cannot pad a batch to a length. Those that generate pad prompts and completions apart.
UNPADDED: tuple[TrainerName, ...] = ("trl-orpo", "trl-grpo", "trl-rloo")

#: The methods whose templates name their adapters' configuration.
COMPARED: tuple[MethodName, ...] = ("full", "lora", "qlora")

#: The methods whose code is not PEFT's configuration alone.
SCRIPTS: dict[MethodName, MethodScript] = {
    "full": MethodScript(template="full", imports=(), context=lambda method: {"name_patterns": method.name_patterns}),
    "lora": MethodScript(template="low_rank"),
    "qlora": MethodScript(template="low_rank"),
    "adapter": MethodScript(template="adapter", imports=("nn",), context=bottleneck.context),
    "bitfit": MethodScript(template="bitfit", imports=()),
    "xlora": MethodScript(template="xlora"),
}
