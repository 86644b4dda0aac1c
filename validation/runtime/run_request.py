"""A training that is about to run, as an estimate's request: its model, PEFT's configuration and its arguments."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from calculator.common.errors import PlanError, refusal
from calculator.devices import gpu
from calculator.inputs.settings import declared
from calculator.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import TrainingArguments

    from calculator.common.names import TaskName

#: The trainer of each class of arguments, the most specific first.
TRAINERS = {
    "SFTConfig": "trl-sft",
    "DPOConfig": "trl-dpo",
    "KTOConfig": "trl-kto",
    "ORPOConfig": "trl-orpo",
    "RewardConfig": "trl-reward",
    "GRPOConfig": "trl-grpo",
    "RLOOConfig": "trl-rloo",
    "TrainingArguments": "transformers",
}

#: Keys of a config.json that name something, or that the calculator has elsewhere.
LEFT_OUT = (
    "_name_or_path",
    "name_or_path",
    "auto_map",
    "id2label",
    "label2id",
    "task_specific_params",
    "quantization_config",
)

#: The task of a model by the end of its class's name; of the others, that of a language model.
TASKS: dict[str, TaskName] = {
    "ForSequenceClassification": "seq_cls",
    "ForTokenClassification": "token_cls",
    "ForQuestionAnswering": "question_ans",
}

#: How many samples are looked at for the longest.
MOST_SAMPLES = 100_000

_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def run_request(model: Any, args: TrainingArguments, samples: Any, sequence_length: int | None) -> dict[str, Any]:
    """Return the request body of a training.

    `samples` is the training dataset, whose longest sample is the sequence length if none is given.

    Raises:
        PlanError: if no request describes the training.
    """
    lengths = [sequence_length] if sequence_length is not None else _lengths(samples)
    limit = getattr(args, "max_length", None)
    longest = min(max(lengths), limit) if isinstance(limit, int) else max(lengths)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    training = {**_arguments(args), **_computed(base, args)}
    training |= {"sequence_length": longest, "padding": len(set(lengths)) > 1 and training["micro_batch_size"] > 1}
    if base.config.is_encoder_decoder:
        training["target_length"] = max(_lengths(samples, "labels"))
    return {
        "model": {"config": config_of(base)},
        **_task(base),
        "method": _method(model, base),
        "training": training | _adapters(model, training["dtype"]),
        "device": _device(args),
    }


def config_of(base: Any) -> dict[str, Any]:
    """Return a model's config.json without names and paths."""
    config: dict[str, Any] = json.loads(base.config.to_json_string(use_diff=False))
    return {key: value for key, value in config.items() if key not in LEFT_OUT}


def _task(base: Any) -> dict[str, Any]:
    """Return the task of a model, and what a classifier's loss is of."""
    config, kind = base.config, type(base).__name__
    task = next((task for end, task in TASKS.items() if kind.endswith(end)), None)
    if task is None:
        return {"task": "seq_2_seq_lm"} if config.is_encoder_decoder else {}
    labels = {} if task == "question_ans" else {"num_labels": config.num_labels}
    problem = {"problem_type": config.problem_type} if task == "seq_cls" and config.problem_type else {}
    return {"task": task, **labels, **problem}


def _lengths(samples: Any, name: str = "input_ids") -> list[int]:
    try:
        count = min(len(samples), MOST_SAMPLES)
        lengths = [len(samples[number][name]) for number in range(count)]
    except (TypeError, KeyError, IndexError):
        lengths = []
    if not lengths:
        message = "the dataset does not state its lengths: call MemoryCheck(sequence_length=...)"
        raise refusal("training.sequence_length", message, None)
    return lengths


def _arguments(args: TrainingArguments) -> dict[str, Any]:
    names = [kind.__name__ for kind in type(args).__mro__]
    trainer = next(TRAINERS[name] for name in names if name in TRAINERS)
    checkpointing: dict[str, Any] = {"gradient_checkpointing": bool(args.gradient_checkpointing)}
    reentrant = (args.gradient_checkpointing_kwargs or {}).get("use_reentrant")
    if args.gradient_checkpointing and isinstance(reentrant, bool):
        checkpointing["gradient_checkpointing_kwargs"] = {"use_reentrant": reentrant}
    return {
        "trainer": trainer,
        "micro_batch_size": args.per_device_train_batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "optimizer": str(getattr(args.optim, "value", args.optim)),
        "max_grad_norm": args.max_grad_norm or None,
        "use_liger_kernel": bool(getattr(args, "use_liger_kernel", False)),
        **checkpointing,
    }


def _computed(base: Any, args: TrainingArguments) -> dict[str, Any]:
    """Return the dtype of the weights, autocast and attention. 4-bit weights have the dtype of their computation."""
    quantized = getattr(base, "quantization_config", None) or getattr(base.config, "quantization_config", None)
    compute = getattr(quantized, "bnb_4bit_compute_dtype", None)
    dtype = compute if _in_4_bits(base) and compute is not None else _dtype(_frozen_first(base))
    return {
        "dtype": _DTYPES[dtype],
        "autocast": "bfloat16" if args.bf16 else "float16" if args.fp16 else None,
        "attention": getattr(base.config, "_attn_implementation", None) or "sdpa",
    }


def _frozen_first(base: Any) -> Iterable[torch.Tensor]:
    return sorted((p for p in base.parameters() if p.is_floating_point()), key=lambda p: p.requires_grad)


def _dtype(parameters: Iterable[torch.Tensor]) -> torch.dtype:
    dtype = next(iter(parameters)).dtype
    if dtype not in _DTYPES:
        raise refusal(
            "training.dtype", f"weights in {dtype} are not modeled: load the model in a float dtype", str(dtype)
        )
    return dtype


def _in_4_bits(base: Any) -> bool:
    if getattr(base, "is_loaded_in_8bit", False):
        message = "8-bit weights are not modeled: load the model in 4 bits or in half precision"
        raise refusal("method.name", message, "load_in_8bit")
    return bool(getattr(base, "is_loaded_in_4bit", False))


def _method(model: Any, base: Any) -> dict[str, Any]:
    adapters = getattr(model, "peft_config", None)
    if not adapters:
        if not all(parameter.requires_grad for parameter in base.parameters()):
            message = "some weights are frozen without PEFT: only whole models and PEFT's methods are modeled"
            raise refusal("method.name", message, None)
        return {"name": "full"}
    if len(adapters) > 1:
        raise refusal("method.name", "the model has several adapters: one is modeled", sorted(adapters))
    (config,) = adapters.values()
    peft_type = getattr(config.peft_type, "value", config.peft_type)
    named = [cls for name, cls in METHODS.items() if cls.facts.peft_type == peft_type and name != "qlora"]
    if not named:
        raise refusal("method.name", f"PEFT's {peft_type} is not modeled", peft_type)
    name = "qlora" if named[0].name == "lora" and _in_4_bits(base) else named[0].name
    kind: type = METHODS[name]
    settings = [field.name for field in declared(kind)]
    method = {
        "name": name,
        **{setting: _plain(getattr(config, setting)) for setting in settings if hasattr(config, setting)},
    }
    if isinstance(method.get("target_modules"), list):
        method["target_modules"] = _targets(base, method["target_modules"])
    return method | (_quantization(base) if name == "qlora" else {})


def _targets(base: Any, targets: list[str]) -> list[str]:
    """Return the names of adapted modules; PEFT writes all-linear as the path of each.

    Raises:
        PlanError: if a path is adapted and others of its name are not.
    """
    paths = {target for target in targets if "." in target}
    names = {target.rpartition(".")[2] for target in targets}
    alike = {path for path, _ in base.named_modules() if path.rpartition(".")[2] in names}
    if paths and not alike <= paths:
        message = "only some modules of a name are adapted: name whole modules in target_modules"
        raise refusal("method.target_modules", message, sorted(alike - paths)[:3])
    return sorted(names)


def _quantization(base: Any) -> dict[str, Any]:
    config = base.config.quantization_config
    dense = [p for p in base.parameters() if p.is_floating_point() and not p.requires_grad]
    return {
        "quant_type": config.bnb_4bit_quant_type,
        "double_quant": bool(config.bnb_4bit_use_double_quant),
        "prepare_model_for_kbit_training": all(p.dtype == torch.float32 for p in dense),
    }


def _adapters(model: Any, dtype: str) -> dict[str, Any]:
    """Return the dtype of PEFT's added parameters."""
    if not getattr(model, "peft_config", None):
        return {}
    added = [p.dtype for p in model.parameters() if p.requires_grad]
    is_float32 = bool(added) and all(stored == torch.float32 for stored in added)
    return {"adapter_dtype": "float32" if is_float32 or dtype == "float32" else "model"}


def _plain(value: Any) -> Any:
    """Return a setting as JSON has it."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, list | tuple):
        return list(value)
    return getattr(value, "value", value)


def _device(args: TrainingArguments) -> dict[str, Any]:
    device: dict[str, Any] = {}
    if args.world_size > 1:
        if getattr(args, "deepspeed", None) or getattr(args, "fsdp", None):
            message = "DeepSpeed and FSDP are not read from a running training: request an estimate with their settings"
            raise refusal("device.sharding", message, args.world_size)
        device = {"count": args.world_size, "sharding": "ddp"}
    if args.device.type != "cuda":
        return device
    device["type"] = "cuda"
    name = torch.cuda.get_device_name(args.device)
    try:
        return {**device, "gpu": gpu(name).id}
    except PlanError:
        return {**device, "memory_bytes": torch.cuda.get_device_properties(args.device).total_memory}
