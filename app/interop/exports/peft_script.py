"""A training script of `transformers`, `peft` and `trl` that runs the step of the request's trainer.

Source: build.py, methods.py, bottleneck.py, optimizers.py and step.py of validation/reference, which run this step on
real modules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from app.interop.exports import bottleneck, several_gpus, task_script, unsloth_script
from app.interop.exports.checkpoint import unquantized
from app.interop.exports.exported import AdditionalFile, Exported, NotExpressed
from app.interop.exports.header import header, title
from app.interop.exports.literal import WIDTH
from app.interop.exports.part import uncut
from app.interop.exports.script_templates import script_template
from calculator.common.errors import refusal
from calculator.families import FAMILIES
from calculator.methods import LoRA, QLoRA
from calculator.methods.config_arguments import config_arguments
from calculator.resident.int8 import Int8
from calculator.resident.optim_args import options
from calculator.resident.optimizers import OPTIMIZERS as OPTIMIZER_FACTS
from calculator.resident.optimizers import updates_in_backward
from calculator.resident.quantization import Quantization

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.interop.exports.planned import Planned
    from calculator.common.names import MethodName, OptimizerName, TrainerName
    from calculator.estimation.request import Request
    from calculator.inputs.training import Training
    from calculator.methods import Method

#: An optimizer for each parameter of the groups whose gradients are projected.
_PER_PARAMETER = (
    "OptimizerPerParameter(\n        projected(model),\n        lambda group: {}(group, lr=LEARNING_RATE),\n    )"
)

#: How the Hugging Face Trainer constructs each optimizer. Source: transformers/trainer_optimizer.py.
OPTIMIZERS: dict[OptimizerName, str] = {
    "adamw_torch": "torch.optim.AdamW(trainable, lr=LEARNING_RATE, foreach=True)",
    "adamw_torch_fused": "torch.optim.AdamW(trainable, lr=LEARNING_RATE, fused=True)",
    "adamw_8bit": "bnb.optim.AdamW(trainable, lr=LEARNING_RATE, optim_bits=8)",
    "adamw_bnb_8bit": "bnb.optim.AdamW(trainable, lr=LEARNING_RATE, optim_bits=8)",
    "paged_adamw_8bit": "bnb.optim.AdamW(trainable, lr=LEARNING_RATE, optim_bits=8, is_paged=True)",
    "paged_adamw_32bit": "bnb.optim.AdamW(trainable, lr=LEARNING_RATE, optim_bits=32, is_paged=True)",
    "lion_8bit": "bnb.optim.Lion(trainable, lr=LEARNING_RATE, optim_bits=8)",
    "paged_lion_8bit": "bnb.optim.Lion(trainable, lr=LEARNING_RATE, optim_bits=8, is_paged=True)",
    "lion_32bit": "bnb.optim.Lion(trainable, lr=LEARNING_RATE, optim_bits=32)",
    "paged_lion_32bit": "bnb.optim.Lion(trainable, lr=LEARNING_RATE, optim_bits=32, is_paged=True)",
    "sgd": "torch.optim.SGD(trainable, lr=LEARNING_RATE, foreach=True)",
    "adafactor": "Adafactor(trainable, lr=LEARNING_RATE, scale_parameter=False, relative_step=False)",
    "adagrad": "torch.optim.Adagrad(trainable, lr=LEARNING_RATE, foreach=True)",
    "rmsprop": "torch.optim.RMSprop(trainable, lr=LEARNING_RATE, foreach=True)",
    "adamw_torch_8bit": "torchao.optim.AdamW8bit(trainable, lr=LEARNING_RATE, block_size=256)",
    "adamw_torch_4bit": "torchao.optim.AdamW4bit(trainable, lr=LEARNING_RATE, block_size=256)",
    "muon": "MuonWithAdamW(model, lr=LEARNING_RATE)",
    "galore_adamw": "galore_torch.GaLoreAdamW(projected(model), lr=LEARNING_RATE)",
    "galore_adafactor": "galore_torch.GaLoreAdafactor(\n"
    "        projected(model), lr=LEARNING_RATE, scale_parameter=False, relative_step=False\n    )",
    "apollo_adamw": "apollo_torch.APOLLOAdamW(projected(model), lr=LEARNING_RATE)",
    "schedule_free_adamw": "schedulefree.AdamWScheduleFree(trainable, lr=LEARNING_RATE)",
    "schedule_free_sgd": "schedulefree.SGDScheduleFree(trainable, lr=LEARNING_RATE)",
    "schedule_free_radam": "schedulefree.RAdamScheduleFree(trainable, lr=LEARNING_RATE)",
    "stable_adamw": "optimi.StableAdamW(trainable, lr=LEARNING_RATE)",
    "galore_adamw_layerwise": _PER_PARAMETER.format("galore_torch.GaLoreAdamW"),
    "galore_adamw_8bit_layerwise": _PER_PARAMETER.format("galore_torch.GaLoreAdamW8bit"),
    "apollo_adamw_layerwise": _PER_PARAMETER.format("apollo_torch.APOLLOAdamW"),
    "lomo": "lomo_optim.Lomo(model, lr=LEARNING_RATE)",
    "adalomo": "lomo_optim.AdaLomo(model, lr=LEARNING_RATE)",
    "grokadamw": "grokadamw.GrokAdamW(trainable, lr=LEARNING_RATE)",
    "lorafa": "create_lorafa_optimizer(\n"
    '        model, r=model.peft_config["default"].r, lora_alpha=model.peft_config["default"].lora_alpha,'
    " lr=LEARNING_RATE\n    )",
}

#: The modules that these calls name besides, by package.
MODULES = {
    "galore-torch": "galore_torch",
    "apollo-torch": "apollo_torch",
    "torchao": "torchao.optim",
    "schedulefree": "schedulefree",
    "torch-optimi": "optimi",
    "lomo-optim": "lomo_optim",
    "grokadamw": "grokadamw",
}

#: The block size of BitsAndBytesConfig, which cannot be changed. Source: transformers/utils/quantization_config.py.
DEFAULT_BLOCKSIZE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodScript:
    """What a method adds to the script."""

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
    #: What a row of its dataset is.
    row: Literal["tokens", "pair", "rated answer", "pair of texts", "prompt"] = "tokens"
    #: Whether it takes a second model as the reference.
    takes_reference: bool = False
    #: The class of its model, where it is not that of the family, and PEFT's name of its task, if it has one.
    auto_model: str = ""
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
    "full": MethodScript(template="full", imports=()),
    "lora": MethodScript(template="low_rank"),
    "qlora": MethodScript(template="low_rank"),
    "adapter": MethodScript(template="adapter", imports=("nn",), context=bottleneck.context),
    "bitfit": MethodScript(template="bitfit", imports=()),
}


def exported(planned: Planned) -> Exported:
    """Return the script of the request's method and trainer.

    Raises:
        PlanError: if the trainer has no script yet.
    """
    method, name = planned.request.method, planned.request.training.trainer
    if name == "unsloth":
        return unsloth_script.exported(planned)
    script, trainer = SCRIPTS.get(method.name, MethodScript()), TRAINER_SCRIPTS.get(name)
    _check_checkpoint(planned.request)
    if planned.request.task != "causal_lm":
        task_script.check(planned.request)
        classes = () if trainer is None else trainer.classes
        task_type = None if planned.model.hears else planned.request.task.upper()
        trainer = TrainerScript(template="task", classes=classes, task_type=task_type)
    if trainer is not None and trainer.adds_adapters:
        _check_compared(planned.request, name)
    if trainer is None:
        *others, last = filter(None, TRAINER_SCRIPTS)
        message = f"scripts are written for {', '.join(others)} and {last}, and for the reference step: use one of them"
        raise refusal("training.trainer", message, name)
    of_task = task_script.context(planned.request, planned.model)
    context = {**_context(planned, script, trainer), **of_task, **script.context(method)}
    content = script_template(f"methods/{script.template}.py.jinja").render(
        parent=f"{trainer.template}.py.jinja", **context
    )
    return Exported(
        filename="train.py",
        media_type="text/x-python",
        content=content,
        not_expressed=_not_expressed(planned.request),
        additional_files=_additional_files(planned.request),
    )


def _additional_files(request: Request) -> tuple[AdditionalFile, ...]:
    sharding, of_trainer = request.device.sharding, request.training.trainer is not None
    if sharding in ("none", "ddp"):
        return ()
    config = several_gpus.accelerate_file(request)
    if sharding == "fsdp":
        return (config,)
    return (config, several_gpus.deepspeed_file(request, of_trainer=of_trainer))


def _context(planned: Planned, script: MethodScript, trainer: TrainerScript) -> dict[str, Any]:
    request, plan = planned.request, planned.plan
    auto_model = trainer.auto_model or FAMILIES[planned.model.model_type].auto_model_for(request.task)
    method, training = request.method, request.training
    quantization = method.base_quantization(training)
    other_blocks = isinstance(quantization, Quantization) and quantization.blocksize != DEFAULT_BLOCKSIZE
    by_hand = quantization is not None and (request.model.id is None or other_blocks)
    return {
        "accelerator": _accelerator(request),
        "arguments": config_arguments(method),
        "attention": planned.attention,
        "in_bits": method.base.in_bits if isinstance(method, LoRA) and method.base else "4 bits",
        "bits": 8 if isinstance(quantization, Int8) else 4,
        "by_hand": by_hand,
        "adds_adapters": trainer.adds_adapters,
        "config": request.model.config,
        "ddp": several_gpus.changed_ddp(request),
        "ddp_keys": several_gpus.ddp_keys(request),
        "peft_class": method.facts.config_class,
        "header": header(request, plan, _run(request), _not_expressed(request)),
        "imports": _imports(request, script, by_hand=by_hand),
        "head_names": planned.model.task.head_names,
        "label": method.title,
        "max_memory_allocated": plan.memory.peak_allocated_bytes + plan.memory.library_workspace_bytes,
        "method": method,
        "model_id": planned.model.id,
        "optimizer": _optimizer(training),
        "updates_in_backward": updates_in_backward(training),
        "is_fused": training.optimizer in ("lomo", "adalomo"),
        "projection": projection_options(training),
        "partitions_while_loading": several_gpus.partitions_while_loading(request),
        "pads": training.trainer not in UNPADDED,
        "quantization": _quantization_call(method),
        "quantization_import": method.base.imports if isinstance(method, LoRA) and method.base else "",
        "prepares": _prepares(method),
        "quantized": quantization is not None,
        "quantizing": method.base.quantizing if isinstance(method, LoRA) and method.base else "",
        "row": trainer.row,
        "scores": bool(trainer.auto_model),
        "sharding": request.device.sharding,
        "title": title(request, plan),
        "takes_reference": trainer.takes_reference,
        "task_type": trainer.task_type,
        "trainable": plan.parameters.trainable,
        "training": training,
        "trains_base": method.facts.trains_base,
        "auto_model": auto_model,
        "trainer_class": trainer.classes[0] if trainer.classes else "",
        "config_class": trainer.classes[1] if trainer.classes else "",
        "transformers": _imported("transformers", _transformers(request, auto_model, trainer, by_hand=by_hand)),
        "trl": tuple(sorted(trainer.classes)) if trainer.is_of_trl else (),
        "trl_module": trainer.module,
    }


def _prepares(method: Method) -> bool:
    """Return whether PEFT's preparation for k-bit training is called, and casts."""
    if not isinstance(method, LoRA | QLoRA) or not method.prepare_model_for_kbit_training:
        return False
    return isinstance(method, QLoRA) or (method.base is not None and method.base.is_cast_by_preparation)


def _check_checkpoint(request: Request) -> None:
    """Refuse a script over a base that only a checkpoint has.

    Raises:
        PlanError: if the model has no hub id.
    """
    weight = request.method.base_quantization(request.training)
    if weight is not None and not weight.of_bitsandbytes and request.model.id is None:
        message = f"the script of {request.method.title} reads a checkpoint: name a model by its hub id"
        raise refusal("model.config", message, None)


def _quantization_call(method: Method) -> str:
    """Return the call that makes the quantization_config of LoRA's base; empty for other methods."""
    return method.base.loading if isinstance(method, LoRA) and method.base is not None else ""


def _optimizer(training: Training) -> str:
    """Return the call that makes the optimizer."""
    call = OPTIMIZERS[training.optimizer]
    if training.optimizer_in_bwd:
        groups = '[{"params": trainable}]'
        return f"OptimizerPerParameter(\n        {groups},\n        lambda trainable: {call},\n    )"
    if training.loraplus_lr_ratio is None:
        return call
    cls, _, rest = call.partition("(trainable, ")
    arguments = f"model, {cls}, loraplus_lr_ratio={training.loraplus_lr_ratio:g}, {rest.removesuffix(')')}"
    line = f"create_loraplus_optimizer({arguments})"
    fits = len(f"    optimizer = {line}") <= WIDTH
    return line if fits else f"create_loraplus_optimizer(\n        {arguments}\n    )"


def projection_options(training: Training) -> dict[str, Any]:
    """Return the options of the group whose gradients are projected, the Trainer's defaults included.

    Source: transformers/trainer_optimizer.py, _get_galore_optimizer and _get_apollo_optimizer.
    """
    kind = OPTIMIZER_FACTS[training.optimizer].projects
    if not kind:
        return {}
    defaults = {"rank": "128", "update_proj_gap": "200", "scale": "0.25", "proj_type": "std"}
    if kind == "random":
        defaults |= {"scale": "1.0", "proj": "random", "scale_type": "channel"}
    found: dict[str, Any] = {**defaults, **options(training.optim_args)}
    return {
        name: int(value) if name in ("rank", "update_proj_gap") else float(value) if name == "scale" else value
        for name, value in found.items()
    }


def _accelerator(request: Request) -> tuple[str, ...]:
    """Return the arguments of accelerate's Accelerator. Its configuration has the others."""
    found, ddp = [], several_gpus.changed_ddp(request)
    if request.training.gradient_accumulation_steps > 1:
        found.append("gradient_accumulation_steps=GRADIENT_ACCUMULATION_STEPS")
    if ddp:
        arguments = ", ".join(f"{name}={value}" for name, value in ddp.items())
        found.append(f"kwargs_handlers=[DistributedDataParallelKwargs({arguments})]")
    return tuple(found)


def _imports(request: Request, script: MethodScript, *, by_hand: bool) -> tuple[str, ...]:
    optimizer = request.training.optimizer
    needed = {
        "bnb": by_hand or (request.training.trainer is None and OPTIMIZERS[optimizer].startswith("bnb.")),
        "peft": "peft" in script.imports,
        "nn": by_hand or "nn" in script.imports,
    }
    module = MODULES.get(OPTIMIZER_FACTS[optimizer].package)
    if module is not None and request.training.trainer is None:
        needed[module] = True
    return tuple(name for name, is_needed in needed.items() if is_needed)


def _transformers(request: Request, auto_model: str, trainer: TrainerScript, *, by_hand: bool) -> tuple[str, ...]:
    named = [auto_model, "AutoTokenizer" if request.model.id is not None else "AutoConfig"]
    if request.method.quantizes_base and not by_hand:
        named.append(_quantization_call(request.method).partition("(")[0] or "BitsAndBytesConfig")
    if trainer.classes:
        named += ("PrinterCallback", "TrainerCallback", *(() if trainer.is_of_trl else trainer.classes))
    elif request.training.optimizer == "adafactor":
        named.append("Adafactor")
    if trainer.is_of_trl and request.model.id is None:
        named.append("PreTrainedTokenizerFast")
    return tuple(sorted(named))


def _imported(package: str, names: tuple[str, ...]) -> str:
    """Return the statement that imports names, on one line if it is short enough."""
    line = f"from {package} import {', '.join(names)}"
    return line if len(line) <= WIDTH else "\n".join((f"from {package} import (", *(f"    {n}," for n in names), ")"))


def _run(request: Request) -> tuple[str, ...]:
    command = several_gpus.launch(request, "train.py --text corpus.txt --steps 1000 --output trained")
    where = "" if request.model.id is not None else " It starts from random weights."
    lines = [f"Run it with: {command}", f"Without --text it runs a few steps on a sample text.{where}"]
    if request.training.trainer is not None:
        lines.append(f"Install {_releases(request)}: other releases can need other memory.")
    elif request.training.padding and request.task == "causal_lm":
        lines.append("The labels are a separate tensor here, 8 bytes a token, so that padding is not learned.")
    return tuple(lines)


def _releases(request: Request) -> str:
    stack = request.stack
    trl = f", trl {stack.trl}" if TRAINER_SCRIPTS[request.training.trainer].is_of_trl else ""
    return f"transformers {stack.transformers}{trl} and peft {stack.peft}"


def _check_compared(request: Request, trainer: str | None) -> None:
    """Refuse a script of a trainer that tokenizes texts itself and adds the adapters, where it lacks one of both."""
    if request.model.id is None:
        message = f"{trainer} tokenizes texts itself, and a config has no tokenizer: give a hub id"
        raise refusal("model.config", message, None)
    if request.method.name not in COMPARED:
        message = f"scripts of {trainer} are written for {', '.join(COMPARED)}: use one of them, or transformers"
        raise refusal("method.name", message, request.method.name)


def _not_expressed(request: Request) -> tuple[NotExpressed, ...]:
    """Return the settings that the sample text cannot show, or that the trainer has its own value of."""
    training, found = request.training, []
    if training.completion_tokens is not None:
        why = "the labelled tokens are those of the script's text"
        found.append(NotExpressed(loc="training.completion_tokens", value=training.completion_tokens, why=why))
    found += uncut(training, "the script loads the model unpatched: call the package's cce_patch before")
    found += unquantized(request)
    if training.padding and training.trainer in UNPADDED:
        why = "the rows of the script's text are equally long"
        found.append(NotExpressed(loc="training.padding", value=True, why=why))
    adds = TRAINER_SCRIPTS[training.trainer].adds_adapters and not request.method.facts.trains_base
    if adds and training.adapter_dtype == "model":
        why = "the trainer adds adapters in float32"
        found.append(NotExpressed(loc="training.adapter_dtype", value="model", why=why))
    if training.trainer is not None:
        known = tuple(several_gpus.DDP_KEYS)
        found += several_gpus.unnamed_ddp(request, "transformers' Trainer", known)
    return tuple(found)
