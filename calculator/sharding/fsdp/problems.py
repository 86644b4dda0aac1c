"""Checks for runs that FSDP2 refuses as accelerate sets it up, and for runs that are not modeled."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.inputs.sharding import FSDPConfig
from calculator.inputs.stack import DEFAULT_STACK
from calculator.methods.compared import compared_model
from calculator.resident.optimizers import OPTIMIZERS
from calculator.resident.tensors import resident_tensors
from calculator.sharding.fsdp.layer_classes import LAYER_CLASSES
from calculator.sharding.fsdp.parameters import cast_biases, is_sharded, stored
from calculator.sharding.fsdp.units import TOWER_ATTENTION, TOWER_LAYERS, outer_units, units_of
from calculator.stack.releases import dotted, release
from calculator.stack.torch_releases import IGNORES_INTEGERS, MIXED_FROZEN
from calculator.trainers import trainer_of
from calculator.trainers.liger import computes_logits, is_patched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.common.dtype import DType
    from calculator.methods.prepared_model import PreparedModel

#: The trainers whose steps are modeled under FSDP2. None is the reference step.
TRAINERS = (None, "transformers", "trl-sft", "trl-dpo", "trl-kto", "trl-reward", "trl-orpo", "trl-grpo", "trl-rloo")

#: PyTorch's optimizers. Those of bitsandbytes and Adafactor fail, because they mix plain tensors with DTensor shards.
ON_SHARDS = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop")

#: The optimizers whose states exist before accelerate shards a Trainer's model (accelerate/accelerator.py,
#: _prepare_fsdp2).
EARLY = ("adagrad",)


#: Models whose class names a unit that they do not contain, and the name of that unit. accelerate looks for it and
#: fails. Source: _no_split_modules of transformers' class; accelerate/utils/fsdp_utils.py,
#: fsdp2_prepare_auto_wrap_policy.
MISSING_LAYERS = {
    "gemma3": "SiglipTextEmbeddings",
    "gemma4": "Gemma4AudioLayer",
    "gemma4_text": "Gemma4AudioLayer",
    "llava": "CLIPTextEmbeddings",
    "llava_next": "CLIPTextEmbeddings",
    "paligemma": "SiglipTextEmbeddings",
    "qwen3_5_moe_text": "Qwen3_5MoeVisionBlock",
    "qwen3_5_text": "Qwen3_5VisionBlock",
}

#: Why `generate` fails with cpu_offload. Inside it, no forward pass is one of FSDP's root, which would move its inputs.
#: Sources: transformers/generation/utils.py, prepare_inputs_for_generation; transformers/trainer.py,
#: _prepare_for_training; torch/distributed/fsdp/_fully_shard/_fsdp_state.py, _root_pre_forward.
GENERATION_FAILS = (
    "generate moves token ids to the device of the sharded weights, the host, and PyTorch refuses to look them up in"
    " embeddings on the GPU"
)


def problems(prepared: PreparedModel) -> Iterator[Problem]:
    """Yield the problems of a run under FSDP."""
    training = prepared.training
    wrapped = (training.fsdp_config or FSDPConfig()).transformer_layer_cls_to_wrap
    layer = MISSING_LAYERS.get(prepared.model.model_type)
    if wrapped is not None:
        yield from _wrapped_class_problems(prepared, wrapped)
    elif layer is not None:
        message = (
            f"accelerate looks for {layer}, which the model does not have, and raises an error: {_way_out(prepared)}"
        )
        yield Problem(loc="device.sharding", msg=message, input="fsdp")
    elif prepared.model.towers and prepared.model.model_type not in TOWER_LAYERS | TOWER_ATTENTION:
        message = f"the units in the vision tower of {prepared.model.model_type} are not modeled: use ddp or zero2"
        yield Problem(loc="device.sharding", msg=message, input="fsdp")
    if training.trainer not in TRAINERS:
        message = f"its step under fsdp is not modeled: use {' or '.join(filter(None, TRAINERS))}, or leave it out"
        yield Problem(loc="training.trainer", msg=message, input=training.trainer)
    config = training.fsdp_config or FSDPConfig()
    if training.trainer is not None and training.optimizer in EARLY:
        message = "the Trainer creates its states for whole parameters, which FSDP2 then shards: use adamw_torch"
        yield Problem(loc="training.optimizer", msg=message, input=training.optimizer)
    if training.optimizer not in ON_SHARDS and not OPTIMIZERS[training.optimizer].on_one_gpu:
        message = f"it fails on FSDP2's DTensor shards: use one of {', '.join(ON_SHARDS)}"
        yield Problem(loc="training.optimizer", msg=message, input=training.optimizer)
    if replace(prepared.stack, torch=DEFAULT_STACK.torch) != DEFAULT_STACK:
        message = "other releases than of torch are not modeled under fsdp: leave them out"
        yield Problem(loc="stack", msg=message, input=None)
    yield from _integer_problems(prepared)
    yield from _unit_problems(prepared)
    yield from _cast_bias_problems(prepared)
    yield from _method_problems(prepared)
    yield from _reference_problems(prepared)
    yield from _head_problems(prepared)
    if config.cpu_offload and trainer_of(training).generation(training) is not None:
        message = f"{GENERATION_FAILS}: set false, or training.use_vllm"
        yield Problem(loc="training.fsdp_config.cpu_offload", msg=message, input=True)
    if config.cpu_ram_efficient_loading:
        yield from _broadcast_problems(prepared)


def _wrapped_class_problems(prepared: PreparedModel, wrapped: tuple[str, ...]) -> Iterator[Problem]:
    """Yield why units of the named classes are not modeled."""
    classes = LAYER_CLASSES.get(prepared.model.model_type)
    if classes is not None and {*wrapped} == {*classes}:
        return
    way_out = "leave it out" if classes is None else f"its layers are of {' and '.join(classes)}: name them"
    message = f"units of these classes are not modeled for {prepared.model.model_type}: {way_out}"
    yield Problem(loc="training.fsdp_config.transformer_layer_cls_to_wrap", msg=message, input=[*wrapped])


def _way_out(prepared: PreparedModel) -> str:
    """Return the setting that avoids a missing class: the classes of the model's layers, or another sharding."""
    classes = LAYER_CLASSES.get(prepared.model.model_type)
    if classes is None:
        return "use zero3, zero2 or ddp"
    return f"set training.fsdp_config.transformer_layer_cls_to_wrap to {list(classes)}, or use zero3, zero2 or ddp"


def _broadcast_problems(prepared: PreparedModel) -> Iterator[Problem]:
    """Yield parameters with which accelerate fails to shard a model on the meta device and to broadcast its state dict.

    All entries of the state dict must be sharded.

    Source: accelerate/utils/fsdp_utils.py (fsdp2_load_full_state_dict); transformers/modeling_utils.py (tie_weights).
    """
    if prepared.method.facts.quantizes_base:
        return
    loc, model = "training.fsdp_config.cpu_ram_efficient_loading", prepared.model
    buffer = next((named_buffer.name for named_buffer in model.named_buffers() if named_buffer.persistent), None)
    if buffer is not None:
        message = f"accelerate fails on {buffer}, a buffer of the state dict, which is not sharded: set false"
        yield Problem(loc=loc, msg=message, input=True)
    shared = {name.rpartition(".")[0] for name in model.tied}
    wrapped = [name for name in model.outer if name in shared and prepared.module_spec(name, model.outer[name]).added]
    if wrapped:
        message = f"transformers fails to tie the weight of {wrapped[0]} again, which PEFT wraps: set false"
        yield Problem(loc=loc, msg=message, input=True)


def _reference_problems(prepared: PreparedModel) -> Iterator[Problem]:
    """Yield why a second model is refused.

    It has no backward pass that frees its weights. TRL does not freeze it, and accelerate does not cast it. Releases of
    TRL that freeze it are refused anyway.
    """
    training, trainer = prepared.training, trainer_of(prepared.training)
    if trainer.compared(prepared) != "model" or trainer.freezes_reference(prepared):
        return
    second = compared_model(prepared, "model")
    dtype_of = {tensor.name: tensor.dtype for tensor in resident_tensors(second) if tensor.trained}
    for unit, _ in units_of(second):
        dtypes = sorted({dtype_of[parameter.name] for parameter in unit.parameters if parameter.name in dtype_of})
        if len(dtypes) > 1:
            message = (
                f"FSDP refuses {unit.name} of ref_model, whose parameters are in {' and '.join(dtypes)} and require a"
                " gradient: use float32, or a method of PEFT, whose reference is the model without adapters"
            )
            yield Problem(loc="training.dtype", msg=message, input=training.dtype)
            break
    if training.fsdp_config is not None and not training.fsdp_config.reshard_after_forward:
        message = "ref_model then stays gathered on every GPU, which is not modeled: set true, or train adapters"
        yield Problem(loc="training.fsdp_config.reshard_after_forward", msg=message, input=False)


def _head_problems(prepared: PreparedModel) -> Iterator[Problem]:
    """Yield why a head is refused whose weight is read without calling it.

    No other module of its unit runs, so nothing gathers the unit.
    """
    tail, training = outer_units(prepared).tail, prepared.training
    head = prepared.model.head
    if tail.name != head or training.trainer == "trl-orpo":  # that trainer calls the head
        return
    if not (training.trainer or "").startswith("trl"):
        if is_patched(prepared.model, training) and not computes_logits(prepared.model, training):
            message = f"Liger reads the weight of {head}, which FSDP2 has not gathered, so that PyTorch raises an error"
            yield Problem(loc="training.use_liger_kernel", msg=f"{message}: use false", input=True)
    elif tail.trained:
        message = f"TRL gathers {head} outside of its unit, so FSDP does not get its gradient: use ddp or zero2"
        yield Problem(loc="device.sharding", msg=message, input="fsdp")
    elif training.fsdp_config is not None and training.fsdp_config.cpu_offload:
        message = (
            f"TRL reads {head} from host memory and moves the hidden states there, which is not modeled: set false"
        )
        yield Problem(loc="training.fsdp_config.cpu_offload", msg=message, input=True)


def _integer_problems(prepared: PreparedModel) -> Iterator[Problem]:
    """Yield 4-bit weights that are stored as integers, which FSDP of early releases refuses."""
    torch = prepared.stack.torch
    if release(torch)[:2] >= IGNORES_INTEGERS:
        return
    if any(tensor.packed and not is_sharded(tensor) for tensor in resident_tensors(prepared)):
        message = (
            f"FSDP of PyTorch {torch} refuses 4-bit weights that are stored as integers: set method.quant_storage to"
            f" bfloat16, or use {dotted(IGNORES_INTEGERS)} or later"
        )
        yield Problem(loc="stack.torch", msg=message, input=torch)


def _unit_problems(prepared: PreparedModel) -> Iterator[Problem]:
    """Yield units that FSDP refuses: parameters of several dtypes, and parameters without a dimension."""
    for unit, _ in units_of(prepared):
        dtypes = sorted({parameter.dtype for parameter in unit.parameters if parameter.trained})
        if len(dtypes) > 1:
            yield _mixed(prepared, unit.name, dtypes)
            return
        every = sorted({parameter.dtype for parameter in unit.parameters})
        if len(every) > 1 and release(prepared.stack.torch)[:2] < MIXED_FROZEN:
            yield _mixed_with_frozen(prepared, unit.name, every)
            return
        scalar = next((parameter for parameter in unit.parameters if not parameter.shape), None)
        if scalar is not None:
            yield Problem(
                loc="model", msg=f"FSDP can't shard {scalar.name}, which has no dimension: use ddp", input=None
            )
            return


def _cast_bias_problems(prepared: PreparedModel) -> Iterator[Problem]:
    """Yield trained biases of 4-bit layers whose gradients have another dtype than the rest of their unit.

    Their gradients have the dtype of the layer. FSDP reduces gradients of one dtype in a unit.

    Source: torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py, foreach_reduce.
    """
    training = prepared.training
    method = prepared.method
    if not (method.facts.quantizes_base and method.trains_biases) or training.autocast == training.dtype:
        return
    whole = stored(resident_tensors(prepared), prepared.method, training)
    bias = next((cast_bias for cast_bias in cast_biases(whole, training) if cast_bias.gets_gradient), None)
    if bias is not None:
        message = (
            f"FSDP refuses gradients of several dtypes: its 4-bit layer casts {bias.name} from"
            f" {training.autocast or bias.dtype} to {training.dtype}. Set none"
        )
        yield Problem(loc="method.bias", msg=message, input=getattr(prepared.method, "bias", None))


def _mixed(prepared: PreparedModel, unit: str, dtypes: list[DType]) -> Problem:
    """Return the problem of a unit whose trained parameters have several dtypes.

    Its message tells how to train those of one dtype.
    """
    why = f"FSDP refuses {unit}, whose trained parameters are in {' and '.join(dtypes)}"
    if getattr(prepared.method, "use_dora", False) and (prepared.training.trainer or "").startswith("trl-"):
        message = (
            f"{why}; TRL leaves DoRA's magnitudes of a 4-bit model in float32: set use_dora to false, or use the "
            "trainer transformers"
        )
        return Problem(loc="method.use_dora", msg=message, input=True)
    if prepared.method.facts.quantizes_base:
        message = f"{why}; accelerate does not cast a 4-bit model: set bias to none and omit modules_to_save"
        return Problem(loc="method.bias", msg=message, input=getattr(prepared.method, "bias", None))
    message = f"{why}: set it to bfloat16, with which accelerate casts them to float32"
    return Problem(loc="training.autocast", msg=message, input=prepared.training.autocast)


def _mixed_with_frozen(prepared: PreparedModel, unit: str, dtypes: list[DType]) -> Problem:
    """Return the problem of a unit whose frozen parameters have other dtypes than its trained ones."""
    torch = prepared.stack.torch
    message = (
        f"FSDP of PyTorch {torch} refuses {unit}, whose parameters are in {' and '.join(dtypes)}: use"
        f" {dotted(MIXED_FROZEN)} or later, or one dtype for the model and its adapters"
    )
    return Problem(loc="stack.torch", msg=message, input=torch)


def _method_problems(prepared: PreparedModel) -> Iterator[Problem]:
    training, model = prepared.training, prepared.model
    tied = {name.removesuffix(".weight") for pair in model.tied.items() for name in pair}
    copied = [name for name in sorted(tied) if prepared.method.copy_name(name)]
    if copied:
        message = (
            f"FSDP refuses a copy of {copied[0]}: its original shares its weight with a module of another unit. Leave"
            " it out, or untie the weights"
        )
        yield Problem(loc="method.modules_to_save", msg=message, input=None)
    indices = getattr(prepared.method, "trainable_token_indices", None)
    if indices and f"{model.head}.weight" in model.tied:
        # The `weight` of PEFT's TrainableTokensWrapper is a new tensor each time (peft/utils/other.py,
        # _getattr_wrapped). fsdp2_prepare_model compares those of the embeddings and the head, and finds no tie.
        message = (
            "accelerate does not see that the head is tied to embeddings with trained tokens, and shards their weight"
            " twice, which FSDP refuses: use the method trainable_tokens or ddp, or untie the weights"
        )
        yield Problem(loc="method.trainable_token_indices", msg=message, input=list(indices))
    if prepared.method.name == "prefix" and training.autocast not in (None, training.dtype):
        message = (
            f"the prefix stays in {training.dtype}, and attention refuses keys in another dtype than the queries'"
            f" {training.autocast}: set training.dtype {training.autocast}"
        )
        yield Problem(loc="training.autocast", msg=message, input=training.autocast)
