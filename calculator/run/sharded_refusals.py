"""Checks for whole runs on several GPUs that the libraries refuse, or that are not modeled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.sharding.zero.parameters import auto_hidden_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.run.request import RunRequest

#: The optimizers whose states are modeled in DeepSpeed's checkpoints, which are those of PyTorch.
_SAVED_BY_DEEPSPEED = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop")


def sharded_problems(request: RunRequest) -> Iterator[Problem]:
    """Yield settings that are refused under a sharding that splits the state of the run."""
    estimate, run = request.estimate, request.run
    sharding = estimate.device.sharding
    if sharding != "fsdp" and run.state_dict_type != "FULL_STATE_DICT":
        message = "configures fsdp: set device.sharding to that, or use FULL_STATE_DICT"
        yield Problem(loc="run.state_dict_type", msg=message, input=run.state_dict_type)
    if sharding in ("none", "ddp"):
        return
    if run.merge_and_unload:
        message = f"merging under {sharding} is not modeled: use false, and merge on one GPU"
        yield Problem(loc="run.merge_and_unload", msg=message, input=True)
    if run.saves:
        yield from _checkpoint_problems(request)


def virtual_token_problems(request: RunRequest, model: Model) -> Iterator[Problem]:
    """Yield why PEFT cannot save virtual tokens.

    It runs their encoder to save its output, outside the forward pass that gathers the encoder. Under ZeRO-3, the first
    process does so alone, and waits for the others unless every parameter of the encoder stays whole.

    Source: peft/peft_model.py, get_prompt_embedding_to_save; transformers/trainer.py, save_model.
    """
    estimate = request.estimate
    sharding, method, training = estimate.device.sharding, estimate.method, estimate.training
    if sharding not in ("fsdp", "zero3") or not method.virtual_tokens:
        return
    way_out = "use ddp, zero1 or zero2, or run.save_strategy no"
    message = (
        f"to save virtual tokens, PEFT runs {method.facts.label}'s encoder while FSDP2 has it sharded, and PyTorch"
        f" raises an error: {way_out}"
    )
    if sharding == "zero3":
        largest = max(parameter.parameters for parameter in method.added(model, training))
        hidden_size = auto_hidden_size(model)
        if largest <= training.zero.resolved("stage3_param_persistence_threshold", hidden_size):
            return
        message = (
            f"to save virtual tokens, PEFT runs {method.facts.label}'s encoder on the first process alone, which waits"
            f" for the others to gather it: {way_out}, or a stage3_param_persistence_threshold of at least {largest:,}"
        )
    yield Problem(loc="method.name", msg=message, input=method.name)


def _checkpoint_problems(request: RunRequest) -> Iterator[Problem]:
    estimate, run = request.estimate, request.run
    sharding, method = estimate.device.sharding, estimate.method
    if run.state_dict_type == "SHARDED_STATE_DICT" and run.save_only_model:
        message = "transformers refuses it with SHARDED_STATE_DICT: use false, or FULL_STATE_DICT"
        yield Problem(loc="run.save_only_model", msg=message, input=True)
    gathers = estimate.training.zero.stage3_gather_16bit_weights_on_model_save
    if sharding == "zero3" and run.save_only_model and method.facts.trains_base and not gathers:
        message = "stage 3 saves no model by itself: use false, or stage3_gather_16bit_weights_on_model_save"
        yield Problem(loc="run.save_only_model", msg=message, input=True)
    if run.save_only_model:
        return
    way_out = "use run.save_only_model, or run.save_strategy no"
    if method.name not in ("full", "lora") or getattr(method, "bias", "none") != "none":
        name = method.facts.label if method.name != "lora" else "LoRA with trained biases"
        message = f"the optimizer's files of {name} under {sharding} are not modeled: {way_out}"
        yield Problem(loc="method.name", msg=message, input=method.name)
    if estimate.training.optimizer not in _SAVED_BY_DEEPSPEED:
        message = f"its states in checkpoints of {sharding} are not modeled: {way_out}"
        yield Problem(loc="training.optimizer", msg=message, input=estimate.training.optimizer)
