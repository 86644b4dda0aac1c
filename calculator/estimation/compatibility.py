"""Checks for requests that the real libraries refuse, and for requests that are not modelled yet.

Each refusal gives a reason.
"""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from calculator.common.errors import PlanError, Problem
from calculator.devices.verdict import card_of
from calculator.estimation import (
    audio_requests,
    image_classification,
    image_requests,
    kernel_packages,
    lorafa,
    loraplus,
    seq_2_seq,
    several_gpus,
    stated_base,
    updates_in_backward,
)
from calculator.estimation.model_cache import returns_cache
from calculator.estimation.sample_lengths import uncut
from calculator.families import forward_of, has_no_length, unsupported_configs
from calculator.inputs.sharding import FSDPConfig
from calculator.inputs.stack import DEFAULT_STACK
from calculator.layers.decoder_forward import identity
from calculator.layers.masks import attention_types
from calculator.methods.prepared_model import PreparedModel
from calculator.resident import optim_args
from calculator.resident.optimizers import OPTIMIZERS
from calculator.stack import verified
from calculator.trainers import cut_cross_entropy, liger, towers, trainer_of
from calculator.training_step.optimizer_targets import projected_modules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.estimation.request import Request
    from calculator.inputs.sharding import ShardingName
    from calculator.inputs.training import Training
    from calculator.resident.optimizer import Optimizer
    from calculator.trainers.facts import TrainerFacts


#: Keys of config.json that the base classes of every family read, with the refused value and its effect. Source:
#: transformers/modeling_utils.py (gradient_checkpointing), utils/generic.py and utils/output_capturing.py.
SWITCHES: dict[str, tuple[bool, str]] = {
    "gradient_checkpointing": (
        True,
        "the model would checkpoint its layers whatever the request sets: use training.gradient_checkpointing",
    ),
    "output_attentions": (True, "the model would keep every layer's attention weights, which is not modelled"),
    "output_hidden_states": (True, "the model would keep every layer's hidden states, which is not modelled"),
    "return_dict": (False, "the model would return the loss without a name, and the step needs the name"),
}


#: A pattern of what names of modules never contain: characters of a regular expression, or the number of a layer.
NO_NAME = re.compile(r"[^\w.\-]|(?:^|\.)\d+(?:\.|$)")

#: The trainers whose steps are not modelled with optimizers that need a package of their own.
OWN_OPTIMIZERS = ("torchtune", "unsloth")

#: The trainers whose loops accept the model's outputs as DDP returns them if it copies none.
UNCOPIED_OUTPUTS = ("trl-kto", "trl-reward", "trl-orpo")


def check(request: Request, model: Model) -> None:
    """Refuse a request that the calculator can't answer.

    Raises:
        PlanError: with every reason found.
    """
    of_task = [*_task(request, model)]
    if of_task and (model.task.embeds or not model.reads_words):
        # The following checks need a head and word embeddings.
        raise PlanError(*of_task)
    problems = [
        *of_task,
        *image_requests.problems(request, model),
        *_switches(request, model),
        *_kernels(request, model),
        *kernel_packages.problems(request, model),
        *_trainer(request, model),
        *_positions(request, model),
        *unsupported_configs.problems(model, request.training),
        *several_gpus.several_cards(request.device),
        *_stack(request, model),
        *stated_base.problems(request.method, request.model),
        *stated_base.problems_of_card(request.method, request.device),
        *_plain_steps(request, model),
        *loraplus.problems(request),
        *_optimizer(request, model),
        *lorafa.problems(request, model),
        *updates_in_backward.problems(request, model),
        *_coupled(request, model),
        *_without_attention(request, model),
        *several_gpus.problems(request, model),
    ]
    if problems:
        raise PlanError(*problems)
    request.method.for_model(model).check(model, request.training)


def _switches(request: Request, model: Model) -> Iterator[Problem]:
    config = request.model.config or {}
    nested = (config.get("text_config") if "text_config" in model.config else None) or {}
    for place, values in (("", config), ("text_config.", nested)):
        for name, (value, why) in SWITCHES.items():
            if values.get(name) is value:
                yield Problem(loc=f"model.config.{place}{name}", msg=f"{why}: leave it out", input=value)


def _task(request: Request, model: Model) -> Iterator[Problem]:
    """Yield why a task other than causal language modelling is refused."""
    task, device, training = model.task, request.device, request.training
    if task.name != "seq_2_seq_lm" and training.target_length is not None:
        message = "a target is an encoder-decoder's: set task seq_2_seq_lm, or leave it out"
        yield Problem(loc="training.target_length", msg=message, input=training.target_length)
    if not task.embeds and training.texts_per_example != 2:
        message = "texts are embedded by task feature_extraction alone: set it, or leave texts_per_example out"
        yield Problem(loc="training.texts_per_example", msg=message, input=training.texts_per_example)
    if task.name == "causal_lm":
        return
    yield from seq_2_seq.problems(request, model) if task.name == "seq_2_seq_lm" else ()
    yield from audio_requests.problems(request, model) if model.hears else ()
    yield from image_classification.problems(request, model) if task.name == "image_cls" else ()
    if task.embeds and request.method.name == "prefix" and not forward_of(model).is_causal:
        message = f"the keys and values of a prefix in {model.model_type} are not modelled: use prompt or lora"
        yield Problem(loc="method.name", msg=message, input=request.method.name)
    if task.embeds and training.trainer is not None:
        message = (
            f"a model without a head computes no loss, and {training.trainer} raises an error (The model did not"
            " return a loss from the inputs): leave it out for the reference step, or set another task"
        )
        yield Problem(loc="training.trainer", msg=message, input=training.trainer)
    elif training.trainer not in (None, "transformers"):
        message = f"{task.name} is modelled in the reference step and with transformers: use that, or leave it out"
        yield Problem(loc="training.trainer", msg=message, input=training.trainer)
    for name in OF_LANGUAGE_MODELS if training.trainer is not None else ():
        if given := getattr(training, name):
            message = f"is modelled for causal_lm only, not {task.name}: leave it out"
            yield Problem(loc=f"training.{name}", msg=message, input=given)
    if device.sharding != "none":
        message = f"{task.name} is modelled on one GPU only: use none, and device.count 1"
        yield Problem(loc="device.sharding", msg=message, input=device.sharding)
    if request.stack != DEFAULT_STACK:
        message = f"{task.name} is modelled with the default releases only: leave stack out"
        yield Problem(loc="stack", msg=message, input=asdict(request.stack))


#: Settings of a trainer that are modelled with a language model's loss only.
OF_LANGUAGE_MODELS = ("use_liger_kernel", "cut_cross_entropy", "completion_tokens", "sequence_lengths")


#: Settings that only a trainer's step has, with the values that have no effect.
OF_TRAINERS: dict[str, object] = {
    "loss_type": None,
    "packing": False,
    "packing_strategy": "bfd",
    "padding_free": False,
    "completion_tokens": None,
    "precompute_ref_log_probs": False,
    "beta": None,
    "num_generations": None,
    "max_completion_length": None,
    "use_vllm": False,
    "vllm_mode": "colocate",
    "vllm_gpu_memory_utilization": None,
    "vllm_enable_sleep_mode": False,
    "use_liger_kernel": False,
    "cut_cross_entropy": False,
    "activation_offloading": None,
}


#: The sentence on the option of TRL's configs that offloads activations.
#: Source: trl/models/activation_offloading.py, OffloadActivations, of TRL 1.16.
_OFFLOADS = (
    "moves every saved tensor of 1 kB or more to pinned host memory on a CUDA stream of its own, and keeps five of them"
    " until they are copied (OffloadActivations), which is not modelled: use false, or the trainer unsloth"
)


def _offloading(training: Training, facts: TrainerFacts) -> Iterator[Problem]:
    """Yield why activations that a trainer moves to host memory are refused.

    The default of TRL's configs is false.
    """
    given = training.activation_offloading
    if given is None or facts.offloads or (facts.offloads_saved_tensors and not given):
        return
    kept = "is modelled with layer inputs on the GPU only: leave it out, or use unsloth"
    message = f"{facts.label} {_OFFLOADS if facts.offloads_saved_tensors else kept}"
    yield Problem(loc="training.activation_offloading", msg=message, input=given)


def _trainer(request: Request, model: Model) -> Iterator[Problem]:
    """Yield settings that a trainer refuses, and settings that need a trainer if there is none."""
    training = request.training
    if training.trainer is None:
        given = {
            name: getattr(training, name) for name, value in OF_TRAINERS.items() if getattr(training, name) != value
        }
        if training.use_reentrant:
            given["gradient_checkpointing_kwargs.use_reentrant"] = True
        for name, value in given.items():
            message = f"the reference step has no such setting: set training.trainer, or leave {name} out"
            yield Problem(loc=f"training.{name}", msg=message, input=value)
        return
    if towers.reads_images(model):
        prepared = PreparedModel(model, request.method, training, request.device, request.stack)
        yield from towers.problems(prepared)
    elif model.idle and not model.towers:
        message = (
            f"{model.model_type} has weights that no batch uses, which is not modelled with a trainer: leave it out"
        )
        yield Problem(loc="training.trainer", msg=message, input=training.trainer)
        return
    if training.trainer != "transformers" and forward_of(model).head_input is not identity:
        message = (
            f"{model.model_type} is modelled in the reference step and with transformers: use that, or leave it out"
        )
        yield Problem(loc="training.trainer", msg=message, input=training.trainer)
        return
    of_row = training.sequence_length - 1 + bool(request.method.virtual_tokens)
    most = training.micro_batch_size * trainer_of(training).facts.sequences * of_row
    if training.flattened:
        most = training.micro_batch_size * training.sequence_length - training.samples
    if training.completion_tokens is not None and training.completion_tokens > most:
        message = f"a micro-batch has {most:,} tokens with a next one: use at most that many"
        yield Problem(loc="training.completion_tokens", msg=message, input=training.completion_tokens)
    if training.completion_tokens is not None and training.sequence_lengths is not None:
        message = "a number of labelled tokens is for micro-batches of one length: leave sequence_lengths out"
        yield Problem(loc="training.completion_tokens", msg=message, input=training.completion_tokens)
    applied = PreparedModel(model, request.method, training, request.device, request.stack)
    yield from liger.problems(applied)
    yield from cut_cross_entropy.problems(applied, request.device.sharding)
    yield from trainer_of(training).problems(applied)
    if training.has_bucket_views:
        message = "TrainingArguments has no such option: leave it out"
        yield Problem(loc="training.ddp.gradient_as_bucket_view", msg=message, input=True)
    facts, sharding = trainer_of(training).facts, request.device.sharding
    yield from _offloading(training, facts)
    config = training.ddp
    if training.trainer in UNCOPIED_OUTPUTS and config is not None and config.copies_outputs:
        message = f"what DDP copies of the outputs of {facts.label} is not modelled: use false, or static_graph true"
        yield Problem(loc="training.ddp.find_unused_parameters", msg=message, input=True)
    if facts.on_one_gpu and sharding != "none":
        message = f"{facts.label} is modelled on one GPU only: use none, or the trainer trl-sft"
        yield Problem(loc="device.sharding", msg=message, input=sharding)


def _kernels(request: Request, model: Model) -> Iterator[Problem]:
    training = request.training
    if training.attention != "flash_attention_2":
        return
    where = "training.attention"
    card = card_of(request.device)
    if card is not None and not card.has_flash:
        yield Problem(
            loc=where,
            msg=f"FlashAttention 2 needs compute capability 8.0; {card.name} has {card.compute_capability}: use sdpa",
            input="flash_attention_2",
        )
    if training.dtype == "float32" and training.autocast is None:
        yield Problem(
            loc=where,
            msg="FlashAttention 2 runs in half precision only: use sdpa, or bfloat16",
            input="flash_attention_2",
        )
    refusal = forward_of(model).refuses_flash(model.config)
    if refusal:
        yield Problem(loc=where, msg=refusal, input="flash_attention_2")
    if training.padding:
        drawn = request.drawn is not None and not request.drawn.padding
        instead = "micro_batch_size 1, which pads no sample" if drawn else "padding false"
        yield Problem(
            loc=where,
            msg=f"with padding, its memory depends on the number of padding tokens: use sdpa, or {instead}",
            input="flash_attention_2",
        )


def _coupled(request: Request, model: Model) -> Iterator[Problem]:
    """Yield why a model whose layers share tensors that need a gradient is refused."""
    training, name = request.training, model.model_type
    if not forward_of(model).couples_layers(model.config):
        return
    if training.gradient_checkpointing and training.use_reentrant:
        message = f"layers of {name} share tensors, whose gradients re-entrant checkpointing drops: use false"
        yield Problem(loc="training.gradient_checkpointing_kwargs.use_reentrant", msg=message, input=True)
    if request.method.embeds_inputs and model.config.get("hidden_size_per_layer_input"):
        message = f"PEFT gives {name} embeddings alone, from which it can't look up its layers' inputs: use lora"
        yield Problem(loc="method.name", msg=message, input=request.method.name)


def _without_attention(request: Request, model: Model) -> Iterator[Problem]:
    """Yield why a cache is refused for a model without attention."""
    if has_no_length(model) and returns_cache(model, request.training):
        message = "no layer attends, and transformers finds no length of the cache: set use_cache to false"
        yield Problem(loc="model.config.use_cache", msg=message, input=True)


def most_positions(model: Model) -> int | None:
    """Return the maximum number of positions that a model can run, or None if there is no limit.

    The limit comes from learned position embeddings, which are the second embedding outside the layers apart from
    Gemma's inputs of each layer. It may also come from the family's attention bias, or from how many steps of a
    position-by-position layer are followed.
    """
    followed = forward_of(model).positions_followed
    if followed is not None:
        return followed
    tables = [
        part
        for part in model.outer.values()
        if part.kind == "embedding" and model.reads_text(part.name) and not part.name.endswith("_per_layer")
    ]
    bounded = len(tables) > 1 or forward_of(model).limited_to_max_positions
    return model.config.get("usable_positions", model.config.get("max_position_embeddings")) if bounded else None


def positions_reason(model: Model, most: int) -> str:
    """Return the reason for the limit of `most_positions`, as a clause that ends in the number of positions."""
    if forward_of(model).positions_followed is None:
        return f"the model has {most:,}"
    return f"{model.model_type} runs one position after the other, which is followed up to {most:,}"


def within_positions(request: Request, model: Model) -> Request:
    """Return the request with its default sequence length: that of the longest sample, or the model's limit.

    The model's config determines the number of tokens of an image or of audio.
    """
    if model.task.name == "image_cls":
        return image_classification.with_tokens(request, model)
    if model.hears:
        return audio_requests.with_lengths(request, model)
    request = uncut(request)
    most = most_positions(model)
    if request.length_given or most is None:
        return request
    room = max(2, most - request.method.virtual_tokens)
    length = min(request.training.sequence_length, room)
    return replace(request, training=replace(request.training, sequence_length=length))


def _stack(request: Request, model: Model) -> Iterator[Problem]:
    stack, method, training = request.stack, request.method, request.training
    if stack == DEFAULT_STACK:
        return
    windows = training.attention != "flash_attention_2" and "sliding_attention" in attention_types(model.decoder.layers)
    masked = training.sequence_length if windows else 0
    yield from verified.problems(stack, model.model_type, model.config, method.name, masked)
    yield from verified.bigcode_problems(stack, model.model_type, model.config, training)
    yield from verified.trainer_problems(stack, training)
    yield from verified.adapter_problems(stack, training, method.name, four_bits=method.facts.quantizes_base)


def _positions(request: Request, model: Model) -> Iterator[Problem]:
    most, virtual = most_positions(model), request.method.virtual_tokens
    target = request.training.target_length
    if model.hears:
        return  # audio has a fixed number of positions, and audio_requests checks the target
    if most is not None and target is not None and target > most:
        message = f"{target:,} positions are needed; the model has {most:,} only"
        yield Problem(loc="training.target_length", msg=message, input=target)
    length = request.training.sequence_length + virtual
    if most is not None and length > most:
        including = f", {virtual:,} of them virtual tokens" if virtual else ""
        yield Problem(
            loc="training.sequence_length",
            msg=f"{length:,} positions are needed{including}; {positions_reason(model, most)} only",
            input=request.training.sequence_length,
        )


def _plain_steps(request: Request, model: Model) -> Iterator[Problem]:
    """Yield why several GPUs, other tasks or older releases are refused with some methods.

    These methods are modelled in plain steps only.
    """
    method, stack = request.method.for_model(model), request.stack
    if not method.plain_steps_only:
        return
    yield from _sharded_plain_steps(request)
    if request.task != "causal_lm":
        message = f"{method.title} is modelled for causal_lm only: use that, or another method"
        yield Problem(loc="task", msg=message, input=request.task)
    if stack.peft != DEFAULT_STACK.peft:
        message = f"{method.title} is modelled as in peft {DEFAULT_STACK.peft} only: use that"
        yield Problem(loc="stack.peft", msg=message, input=stack.peft)
    if method.quantizes_base and stack != DEFAULT_STACK:
        message = f"{method.title} is modelled with the default releases only: leave stack out"
        yield Problem(loc="stack", msg=message, input=asdict(stack))


def _sharded_plain_steps(request: Request) -> Iterator[Problem]:
    """Yield why several GPUs are refused with a method that is modelled under some shardings only, or under none."""
    method, device = request.method, request.device
    if device.count == 1:
        return
    if not method.plain_shardings:
        message = f"{method.title} is modelled on one GPU only: set device.count 1 and device.sharding none"
        yield Problem(loc="device.count", msg=message, input=device.count)
    elif device.sharding not in method.plain_shardings:
        message = f"{method.title} is modelled under {' and '.join(method.plain_shardings)} only: use one of them"
        yield Problem(loc="device.sharding", msg=message, input=device.sharding)
    elif request.training.trainer is not None:
        message = f"{method.title} is modelled in the reference step on several GPUs: leave the trainer out"
        yield Problem(loc="training.trainer", msg=message, input=request.training.trainer)


def _optimizer(request: Request, model: Model) -> Iterator[Problem]:
    """Yield why an optimizer or its options are refused with a trainer or on several GPUs."""
    yield from optim_args.problems(request.training)
    yield from _projected(request, model)
    training, device = request.training, request.device
    optimizer = OPTIMIZERS[training.optimizer]
    message = _on_several_gpus(optimizer, training, device.sharding)
    if message is None and training.trainer is not None and not optimizer.of_trainer:
        message = "TrainingArguments.optim does not have it: leave training.trainer out, or use adamw_torch_fused"
    elif message is None and training.trainer in OWN_OPTIMIZERS and optimizer.on_one_gpu:
        message = f"is not modelled with {training.trainer}: use adamw_torch_fused, or the trainer transformers"
    if message is not None:
        yield Problem(loc="training.optimizer", msg=message, input=training.optimizer)


def _on_several_gpus(optimizer: Optimizer, training: Training, sharding: ShardingName) -> str | None:
    """Return why an optimizer is refused on several GPUs, or None if it is not."""
    if sharding == "none" or not optimizer.on_one_gpu or (sharding == "ddp" and not optimizer.refuses_ddp):
        return None
    if optimizer.of_shards and sharding != "ddp":
        if training.trainer is None and not (training.fsdp_config or FSDPConfig()).cpu_offload:
            return None
        return (
            f"is modelled under {sharding} in the reference step, without offload: leave training.trainer and offload"
            " out, or use adamw_torch"
        )
    where, way_out = "one GPU and under ddp", "device.sharding ddp"
    if optimizer.refuses_ddp:
        where, way_out = "one GPU", "device.count 1 and device.sharding none"
    reason = {"ddp": optimizer.refuses_ddp, "fsdp": optimizer.refuses_fsdp}.get(sharding, optimizer.refuses_zero)
    message = f"is modelled on {where} only: use adamw_torch, or {way_out}"
    return f"{message} ({reason})" if reason else message


def _projected(request: Request, model: Model) -> Iterator[Problem]:
    """Yield why projections of gradients are refused: no module matches, or adapters are trained."""
    training, method = request.training, request.method
    if not OPTIMIZERS[training.optimizer].projects:
        return
    if not method.facts.trains_base or method.trains_part:
        message = "projects the gradients of whole weights, and is modelled for full fine-tuning: use method full"
        yield Problem(loc="training.optimizer", msg=message, input=training.optimizer)
    named = training.optim_target_modules
    if isinstance(named, tuple) and any(NO_NAME.search(name) for name in named):
        message = "regular expressions and numbers of layers are not modelled: give parts of names, such as mlp"
        yield Problem(loc="training.optim_target_modules", msg=message, input=list(named))
    elif named and not any(projected_modules(model, training)):
        message = "no linear layer has one of these in its name: name others, or use all-linear"
        yield Problem(loc="training.optim_target_modules", msg=message, input=list(named))
