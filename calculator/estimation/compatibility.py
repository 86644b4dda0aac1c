"""Checks for requests that the real libraries refuse, and for requests that are not modeled yet.

Each refusal gives a reason.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

from calculator.common.errors import PlanError, Problem
from calculator.devices.kernels import kernels_of
from calculator.devices.verdict import card_of
from calculator.estimation import (
    active_layers,
    expert_strides,
    image_requests,
    kernel_packages,
    lorafa,
    loraplus,
    optimizer_choice,
    positions,
    several_gpus,
    stated_base,
    task_choice,
    trainer_settings,
)
from calculator.estimation import (
    updates_in_backward as optimizer_in_backward,
)
from calculator.estimation.model_cache import returns_cache
from calculator.families import forward_of, has_no_length, unsupported_configs
from calculator.inputs.stack import DEFAULT_STACK
from calculator.layers.masks import attention_types
from calculator.methods import Full
from calculator.methods.prepared_model import PreparedModel
from calculator.resident.optimizers import updates_in_backward
from calculator.stack import activations, renamed, torch_releases, verified
from calculator.stack.changes import older_behavior
from calculator.stack.releases import release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.architecture.config import Config
    from calculator.architecture.model import Model
    from calculator.estimation.request import Request
    from calculator.methods.base import Method


#: Keys of config.json that the base classes of every family read, with the refused value and its effect. Source:
#: transformers/modeling_utils.py (gradient_checkpointing), utils/generic.py and utils/output_capturing.py.
SWITCHES: dict[str, tuple[bool, str]] = {
    "gradient_checkpointing": (
        True,
        "the model would checkpoint its layers whatever the request sets: use training.gradient_checkpointing",
    ),
    "output_attentions": (True, "the model would keep every layer's attention weights, which is not modeled"),
    "output_hidden_states": (True, "the model would keep every layer's hidden states, which is not modeled"),
    "return_dict": (False, "the model would return the loss without a name, and the step needs the name"),
}


def check(request: Request, model: Model, prepared: Callable[[], PreparedModel] | None = None) -> None:
    """Refuse a request that the calculator can't answer.

    `prepared` returns the request's model with its method applied, if the caller needs it too.

    Raises:
        PlanError: with every reason found.
    """
    prepare = prepared or partial(_prepared, request, model)
    task_problems = [*task_choice.problems(request, model)]
    if task_problems and (model.task.embeds or not model.has_word_embeddings):
        # The following checks need a head and word embeddings.
        raise PlanError(*task_problems)
    method = request.method.for_model(model)
    problems = [
        *task_problems,
        *_input_problems(request, model),
        *trainer_settings.problems(request, model, prepare),
        *positions.problems(request, model),
        *unsupported_configs.problems(model, request.training),
        *several_gpus.sharding_problems(request.device),
        *(_stack(request, model) if request.stack != DEFAULT_STACK else ()),
        *stated_base.problems(request.method, request.model),
        *(stated_base.gpu_problems(request.method, request.device) if request.device.gpu is not None else ()),
        *(_plain_steps(request, method) if method.plain_steps_only else ()),
        *_optimizer_problems(request, model),
        *(_coupled(request, model) if forward_of(model).couples_layers(model.config) else ()),
        *(_without_attention(request, model) if has_no_length(model) else ()),
        *(_lists_of_caches(request, model) if request.training.trainer is not None else ()),
        *several_gpus.problems(request, model, prepare),
    ]
    if problems:
        raise PlanError(*problems)
    method.check(model, request.training)


def _input_problems(request: Request, model: Model) -> Iterator[Problem]:
    """Yield problems of images, of a config of the request's own, and of kernels that few requests name."""
    training, config = request.training, request.model.config
    if training.images is not None:
        yield from image_requests.problems(request, model, training.images)
    if config is not None:
        yield from _switches(config, model)
    if training.attention == "flash_attention_2":
        yield from flash_problems(request, model)
    if training.kernels is not None:
        yield from kernel_packages.problems(request, model, training.kernels)
    yield from expert_strides.problems(request, model)


def _optimizer_problems(request: Request, model: Model) -> Iterator[Problem]:
    """Yield problems of the optimizer and of when it updates which parameters."""
    training, method = request.training, request.method
    if training.loraplus_lr_ratio is not None:
        yield from loraplus.problems(request)
    yield from optimizer_choice.problems(request, model)
    if training.optimizer == "lorafa":
        yield from lorafa.problems(request, model)
    if updates_in_backward(training):
        yield from optimizer_in_backward.problems(request, model)
    if isinstance(method, Full) and method.trains_active_layers:
        yield from active_layers.problems(request, method, model)


def _prepared(request: Request, model: Model) -> PreparedModel:
    return PreparedModel(model, request.method, request.training, request.device, request.stack)


def _switches(config: Config, model: Model) -> Iterator[Problem]:
    nested = (config.get("text_config") if "text_config" in model.config else None) or {}
    for place, values in (("", config), ("text_config.", nested)):
        for name, (value, reason) in SWITCHES.items():
            if values.get(name) is value:
                yield Problem(loc=f"model.config.{place}{name}", msg=f"{reason}: leave it out", input=value)


def flash_problems(request: Request, model: Model) -> Iterator[Problem]:
    """Yield why flash_attention_2 is refused."""
    training = request.training
    loc = "training.attention"
    card = card_of(request.device)
    if card is not None and not card.has_flash:
        yield Problem(
            loc=loc,
            msg=f"FlashAttention 2 needs compute capability 8.0; {card.name} has {card.compute_capability}: use sdpa",
            input="flash_attention_2",
        )
    if training.dtype == "float32" and training.autocast is None:
        yield Problem(
            loc=loc,
            msg="FlashAttention 2 runs in half precision only: use sdpa, or bfloat16",
            input="flash_attention_2",
        )
    reason = forward_of(model).refuses_flash(model.config)
    if reason:
        yield Problem(loc=loc, msg=reason, input="flash_attention_2")
    if training.padding:
        drawn = request.drawn is not None and not request.drawn.padding
        way_out = "micro_batch_size 1, which pads no sample" if drawn else "padding false"
        yield Problem(
            loc=loc,
            msg=f"with padding, its memory depends on the number of padding tokens: use sdpa, or {way_out}",
            input="flash_attention_2",
        )


def _coupled(request: Request, model: Model) -> Iterator[Problem]:
    """Yield why a model whose layers share tensors that need a gradient is refused."""
    training, name = request.training, model.model_type
    if training.gradient_checkpointing and training.use_reentrant:
        message = f"layers of {name} share tensors, whose gradients re-entrant checkpointing drops: use false"
        yield Problem(loc="training.gradient_checkpointing_kwargs.use_reentrant", msg=message, input=True)
    if request.method.embeds_inputs and model.config.get("hidden_size_per_layer_input"):
        message = f"PEFT gives {name} embeddings alone, from which it can't look up its layers' inputs: use lora"
        yield Problem(loc="method.name", msg=message, input=request.method.name)


def _without_attention(request: Request, model: Model) -> Iterator[Problem]:
    """Yield why a cache is refused for a model without attention."""
    training = request.training
    if forward_of(model).caches_if_checkpointed:
        training = replace(training, gradient_checkpointing=False)
    if returns_cache(model, training, request.method, request.stack):
        message = "no layer attends, and transformers finds no length of the cache: set use_cache to false"
        yield Problem(loc="model.config.use_cache", msg=message, input=True)


def _stack(request: Request, model: Model) -> Iterator[Problem]:
    stack, method, training = request.stack, request.method, request.training
    windows = training.attention != "flash_attention_2" and "sliding_attention" in attention_types(model.decoder.layers)
    masked = training.sequence_length if windows else 0
    yield from verified.problems(stack, model.model_type, model.config, method.name, masked)
    yield from verified.checkpoint_problems(stack, model.model_type, training)
    yield from verified.bigcode_problems(stack, model.model_type, model.config, training)
    yield from verified.router_problems(stack, model)
    yield from verified.gpt2_problems(stack, model.model_type, training)
    yield from renamed.problems(stack, model.model_type, method)
    yield from activations.problems(stack, model.config)
    if method.base_quantization(training) is None:
        # A quantized layer returns values in its input's dtype, so that they are cast with the queries.
        hidden_dtype = _prepared(request, model).hidden_dtype
        yield from verified.flash_problems(stack, training, hidden_dtype)
    yield from verified.trainer_problems(stack, training)
    yield from torch_releases.optimizer_problems(stack, training)
    if "experts" in model.kinds:
        kernels = kernels_of(request.device, stack, training.kernels)
        yield from torch_releases.expert_problems(stack, grouped_mm=kernels.grouped_mm)
    yield from verified.adapter_problems(stack, training, method.name, four_bits=method.facts.quantizes_base)


def _lists_of_caches(request: Request, model: Model) -> Iterator[Problem]:
    """Yield why lists or tuples of keys and values that a Trainer copies to float32 are refused.

    Source: accelerate, utils/operations.py, convert_to_fp32, which looks into them but not into a Cache.
    """
    stack, training = request.stack, request.training
    if training.autocast is None:
        return
    first = verified.RETURNS_CACHES_LATER.get(model.model_type or "", verified.RETURNS_CACHES)
    if release(stack.transformers)[:2] >= first:
        return
    checkpoints = "caches_of_checkpointed_layers" not in older_behavior(stack, model.model_type)
    unchecked = training if checkpoints else replace(training, gradient_checkpointing=False)
    if returns_cache(model, unchecked, request.method, stack):
        message = (
            f"{training.trainer} copies the keys and values that {model.model_type} returns in transformers"
            f" {stack.transformers} to float32, which is not modeled: set use_cache to false"
        )
        yield Problem(loc="model.config.use_cache", msg=message, input=True)


def _plain_steps(request: Request, method: Method) -> Iterator[Problem]:
    """Yield why several GPUs, other tasks or older releases are refused with some methods.

    These methods are modeled in plain steps only.
    """
    stack = request.stack
    yield from _sharded_plain_steps(request)
    if request.task != "causal_lm":
        message = f"{method.title} is modeled for causal_lm only: use that, or another method"
        yield Problem(loc="task", msg=message, input=request.task)
    if stack.peft != DEFAULT_STACK.peft:
        message = f"{method.title} is modeled only with peft {DEFAULT_STACK.peft}: use that release"
        yield Problem(loc="stack.peft", msg=message, input=stack.peft)
    if method.quantizes_base and stack != DEFAULT_STACK:
        message = f"{method.title} is modeled with the default releases only: leave stack out"
        yield Problem(loc="stack", msg=message, input=asdict(stack))


def _sharded_plain_steps(request: Request) -> Iterator[Problem]:
    """Yield why several GPUs are refused with a method that is modeled under some shardings only, or under none."""
    method, device = request.method, request.device
    if device.count == 1:
        return
    if not method.plain_shardings:
        message = f"{method.title} is modeled on one GPU only: set device.count 1 and device.sharding none"
        yield Problem(loc="device.count", msg=message, input=device.count)
    elif device.sharding not in method.plain_shardings:
        *others, last = method.plain_shardings
        named = f"{', '.join(others)} and {last}" if others else last
        message = f"{method.title} is modeled under {named} only: use one of them"
        yield Problem(loc="device.sharding", msg=message, input=device.sharding)
    elif request.training.trainer is not None and not method.virtual_tokens:
        message = f"{method.title} is modeled in the reference step on several GPUs: leave the trainer out"
        yield Problem(loc="training.trainer", msg=message, input=request.training.trainer)
