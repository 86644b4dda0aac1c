"""A training script of `transformers`, `peft` and `trl` that runs the step of the request's trainer.

Source: build.py, methods.py, bottleneck.py, optimizers.py and step.py of validation/reference, which run this step on
real modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.interop.exports import image_script, script_imports, several_gpus, task_script, unsloth_script
from app.interop.exports.checkpoint import unquantized_base
from app.interop.exports.exported import AdditionalFile, Exported, NotExpressed
from app.interop.exports.header import header, title
from app.interop.exports.part import cut_cross_entropy_difference
from app.interop.exports.script_imports import quantization_call
from app.interop.exports.script_kinds import COMPARED, SCRIPTS, TRAINER_SCRIPTS, UNPADDED, MethodScript, TrainerScript
from app.interop.exports.script_optimizer import optimizer_call, projection_options
from app.interop.exports.script_templates import script_template
from calculator.common.errors import refusal
from calculator.families import FAMILIES
from calculator.methods import Full, LoRA, QLoRA
from calculator.methods.config_arguments import config_arguments
from calculator.resident.int8 import Int8
from calculator.resident.optimizers import updates_in_backward
from calculator.resident.quantization import Quantization

if TYPE_CHECKING:
    from app.interop.exports.planned import Planned
    from calculator.estimation.request import Request
    from calculator.methods import Method

#: The block size of BitsAndBytesConfig, which cannot be changed. Source: transformers/utils/quantization_config.py.
DEFAULT_BLOCKSIZE = 64


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
    _check_active_layers(method)
    if planned.request.task != "causal_lm":
        task_script.check(planned.request)
        classes = () if trainer is None else trainer.classes
        task_type = None if planned.model.reads_audio else planned.request.task.upper()
        trainer = TrainerScript(template="task", classes=classes, task_type=task_type)
    if trainer is not None and trainer.adds_adapters:
        _check_compared(planned.request, name)
    if trainer is None:
        *others, last = filter(None, TRAINER_SCRIPTS)
        message = f"scripts are written for {', '.join(others)} and {last}, and for the reference step: use one of them"
        raise refusal("training.trainer", message, name)
    if planned.request.training.has_images:
        image_script.check(planned.request, planned.model)
        trainer = image_script.with_images(trainer)
    task_context = {**task_script.context(planned.request, planned.model), **image_script.context(planned.request)}
    context = {**_context(planned, script, trainer), **task_context, **script.context(method)}
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
    sharding, has_trainer = request.device.sharding, request.training.trainer is not None
    if sharding in ("none", "ddp"):
        return ()
    config = several_gpus.accelerate_file(request)
    if sharding == "fsdp":
        return (config,)
    return (config, several_gpus.deepspeed_file(request, has_trainer=has_trainer))


def _context(planned: Planned, script: MethodScript, trainer: TrainerScript) -> dict[str, Any]:
    request, plan = planned.request, planned.plan
    auto_model = trainer.auto_model or FAMILIES[planned.model.model_type].auto_model_for(request.task)
    method, training = request.method, request.training
    quantization = method.base_quantization(training)
    other_blocks = isinstance(quantization, Quantization) and quantization.blocksize != DEFAULT_BLOCKSIZE
    by_hand = quantization is not None and (request.model.id is None or other_blocks)
    classes = script_imports.from_transformers(request, auto_model, trainer, by_hand=by_hand)
    return {
        "accelerator": _accelerator(request),
        "arguments": config_arguments(method),
        "attention": planned.attention,
        "in_bits": method.base.in_bits if isinstance(method, LoRA) and method.base else "4 bits",
        "bits": 8 if isinstance(quantization, Int8) else 4,
        "casts_trained": getattr(method, "unfrozen_dtype", "model") == "float32",
        "by_hand": by_hand,
        "adds_adapters": trainer.adds_adapters,
        "config": request.model.config,
        "ddp": several_gpus.changed_ddp(request),
        "ddp_keys": several_gpus.ddp_keys(request),
        "peft_class": method.facts.config_class,
        "header": header(request, plan, _run(request), _not_expressed(request)),
        "imports": script_imports.modules(request, script, by_hand=by_hand),
        "head_names": planned.model.task.head_names,
        "label": method.title,
        "max_memory_allocated": plan.memory.peak_allocated_bytes + plan.memory.library_workspace_bytes,
        "method": method,
        "model_id": planned.model.id,
        "optimizer": optimizer_call(training),
        "updates_in_backward": updates_in_backward(training),
        "is_fused": training.optimizer in ("lomo", "adalomo"),
        "projection": projection_options(training),
        "partitions_while_loading": several_gpus.partitions_while_loading(request),
        "pads": not _is_unpadded(request),
        "quantization": quantization_call(method),
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
        "transformers": script_imports.import_statement("transformers", classes),
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
    if weight is not None and not weight.is_bitsandbytes and request.model.id is None:
        message = f"the script of {request.method.title} reads a checkpoint: name a model by its hub id"
        raise refusal("model.config", message, None)


def _check_active_layers(method: Method) -> None:
    """Refuse a script that trains some layers at a time.

    Raises:
        PlanError: with the tool that has the method.
    """
    if isinstance(method, Full) and method.trains_active_layers:
        tool = "llama-factory" if method.use_badam else "axolotl"
        name = "use_badam" if method.use_badam else "lisa_n_layers"
        message = f"scripts are not written for {method.title}: use format {tool}"
        raise refusal(f"method.{name}", message, getattr(method, name))


def _accelerator(request: Request) -> tuple[str, ...]:
    """Return the arguments of accelerate's Accelerator. Its configuration has the others."""
    options, ddp = [], several_gpus.changed_ddp(request)
    if request.training.gradient_accumulation_steps > 1:
        options.append("gradient_accumulation_steps=GRADIENT_ACCUMULATION_STEPS")
    if ddp:
        arguments = ", ".join(f"{name}={value}" for name, value in ddp.items())
        options.append(f"kwargs_handlers=[DistributedDataParallelKwargs({arguments})]")
    return tuple(options)


def _run(request: Request) -> tuple[str, ...]:
    command = several_gpus.launch(request, "train.py --text corpus.txt --steps 1000 --output trained")
    where = "" if request.model.id is not None else " It starts from random weights."
    lines = [f"Run it with: {command}", f"Without --text it runs a few steps on a sample text.{where}"]
    if request.training.trainer is not None:
        if request.training.has_images:
            lines.append("Without --images it makes images of the planned size; it needs Pillow and torchvision.")
        lines.append(f"Install {_releases(request)}: other releases can need other memory.")
    elif request.training.padding and request.task == "causal_lm":
        lines.append("The labels are a separate tensor here, 8 bytes per token, so that padding is not learned.")
    return tuple(lines)


def _releases(request: Request) -> str:
    stack = request.stack
    trl = f", trl {stack.trl}" if TRAINER_SCRIPTS[request.training.trainer].is_of_trl else ""
    return f"transformers {stack.transformers}{trl} and peft {stack.peft}"


def _is_unpadded(request: Request) -> bool:
    """Return whether the trainer cannot pad a batch to SEQUENCE_LENGTH, as with images."""
    name = request.training.trainer
    return name in UNPADDED or (request.training.has_images and TRAINER_SCRIPTS[name].adds_adapters)


def _check_compared(request: Request, trainer: str | None) -> None:
    """Refuse a script of a trainer that should tokenize texts and add the adapters, if it lacks one of these."""
    if request.model.id is None:
        message = f"{trainer} tokenizes texts itself, and a config has no tokenizer: give a hub id"
        raise refusal("model.config", message, None)
    if request.method.name not in COMPARED:
        message = f"scripts of {trainer} are written for {', '.join(COMPARED)}: use one of them, or transformers"
        raise refusal("method.name", message, request.method.name)


#: The initializations that run on samples, of which the script has none.
#: Source: peft 0.21, tuners/lora/eva.py, corda.py, loraga.py and layer.py.
ON_SAMPLES = {
    "corda": "run PEFT's preprocess_corda on samples before get_peft_model, which fails without it",
    "lora_ga": "run PEFT's preprocess_loraga on samples before get_peft_model; without it, A is random and B zero",
    "eva": "run PEFT's initialize_lora_eva_weights on samples after get_peft_model: A is random without it",
}


def _not_expressed(request: Request) -> tuple[NotExpressed, ...]:
    """Return the settings that the sample text cannot show, or that the trainer overrides."""
    training, differences = request.training, []
    if training.completion_tokens is not None:
        why = "the labeled tokens are those of the script's text"
        differences.append(NotExpressed(loc="training.completion_tokens", value=training.completion_tokens, why=why))
    differences += cut_cross_entropy_difference(
        training, "the script loads the model unpatched: call the package's cce_patch before"
    )
    differences += unquantized_base(request)
    if training.padding and _is_unpadded(request):
        images = training.has_images
        why = "TRL pads rows with images to the longest" if images else "the rows of the script's text are equally long"
        differences.append(NotExpressed(loc="training.padding", value=True, why=why))
    adds = TRAINER_SCRIPTS[training.trainer].adds_adapters and not request.method.facts.trains_base
    if adds and training.adapter_dtype == "model":
        why = "the trainer adds adapters in float32"
        differences.append(NotExpressed(loc="training.adapter_dtype", value="model", why=why))
    if training.trainer is not None:
        written_keys = tuple(several_gpus.DDP_KEYS)
        differences += several_gpus.unnamed_ddp(request, "transformers' Trainer", written_keys)
    kind = getattr(request.method, "init_lora_weights", None)
    if isinstance(kind, str) and kind in ON_SAMPLES:
        differences.append(NotExpressed(loc="method.init_lora_weights", value=kind, why=ON_SAMPLES[kind]))
    return tuple(differences)
