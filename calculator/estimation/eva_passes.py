"""The forward passes in which EVA finds the singular vectors of modules' inputs, before the first step.

A batch of samples is assumed to be as large as a micro-batch of the training, with labels of its own. Every token of it
is assumed to be used. Modules with the same input share a hook.

Source: peft 0.21, tuners/lora/eva.py, _get_eva_state_dict.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from calculator.common.errors import refusal
from calculator.methods.low_rank.eva import HookedInputs, kept_bytes
from calculator.methods.low_rank.eva_config import components, rho_of
from calculator.methods.low_rank.method import LowRank
from calculator.training_step.evaluation import evaluation_pass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from calculator.engine.live_tensors import LiveTensors
    from calculator.methods.costs import Allocated
    from calculator.methods.low_rank.eva import Call
    from calculator.methods.prepared_model import PreparedModel

#: The number of dimensions of a batch of sequences of hidden states.
_DIMENSIONS = 3


class EvaPass(NamedTuple):
    """The tensors alive at the peak of a pass, the operation at the peak, and what the passes keep.

    `batch` are the labels and the positions of the tokens. `kept` are the bytes that hooks keep between two passes.
    """

    alive: LiveTensors
    operation: str
    batch: tuple[Allocated, ...]
    kept: int


def eva_pass(prepared: PreparedModel, order: Mapping[str, int]) -> EvaPass | None:
    """Run a batch of samples through the model with EVA's hooks. `order` are the places of adapted modules in it.

    Return None on several GPUs, whose inputs EVA gathers; if the batch is not one of texts; or if it has fewer tokens
    than a module gets vectors, so that PEFT skips every batch.

    Raises:
        PlanError: if PEFT's hooks fail.
    """
    method, given = prepared.method, prepared.given
    assert isinstance(method, LowRank)
    if prepared.model.task.name != "causal_lm" or given.has_images or prepared.device.sharding != "none":
        return None
    # The trainer, which patches the model with Liger's kernels, is created later.
    training = replace(
        given,
        trainer=None,
        use_liger_kernel=False,
        autocast=None,
        gradient_checkpointing=False,
        gradient_accumulation_steps=1,
    )
    batch = prepared.for_run(training, prepared.device)
    shape = (training.micro_batch_size, training.sequence_length)
    tokens = int(shape[0]) * int(shape[1])
    unhooked = HookedInputs(tokens)
    evaluation_pass(batch, method=unhooked)
    _check(unhooked.calls, order)
    counts = dict(_hooks(unhooked.calls, order, rho_of(method.eva_config)))
    if max(counts.values()) > tokens:
        return None
    peak = evaluation_pass(batch, method=HookedInputs(tokens, counts))
    kept = sum(kept_bytes(int(unhooked.calls[number].shape[-1]), count, tokens) for number, count in counts.items())
    return EvaPass(peak.alive, peak.operation, (("labels", shape, "int64"), _positions(tokens)), kept)


def _positions(tokens: int) -> Allocated:
    return "positions of the tokens", (tokens, 2), "int64"


def _check(calls: list[Call], adapted: Iterable[str]) -> None:
    """Refuse modules that samples do not run, and modules whose input is not a batch of sequences.

    Raises:
        PlanError: with the module and an alternative.
    """
    uncalled = next((path for path in adapted if all(call.path != path for call in calls)), None)
    if uncalled is not None:
        message = f"EVA fails, since a batch of texts does not run {uncalled}: list it in exclude_modules"
        raise refusal("method.target_modules", message, uncalled)
    flat = next((call for call in calls if len(call.shape) != _DIMENSIONS), None)
    if flat is not None:
        message = f"EVA selects tokens of inputs with three dimensions, and that of {flat.path} has two: leave it out"
        raise refusal("method.target_modules", message, flat.path)


def _hooks(calls: list[Call], order: Mapping[str, int], rho: float) -> Iterator[tuple[int, int]]:
    """Yield the calls with a hook, and the number of singular vectors that each looks for.

    The hook is on the first of the modules that share an input. A decoder's layers share the input of their
    cross-attention, so its hook is on a module of the first layer.
    """
    sharing: dict[object, list[int]] = {}
    for number, call in enumerate(calls):
        sharing.setdefault((call.storage, call.shape), []).append(number)
    for numbers in sharing.values():
        paths = [calls[number].path for number in numbers]
        in_layer = numbers[: next((at for at, path in enumerate(paths) if path in paths[:at]), len(paths))]
        first = min(in_layer, key=lambda number: order[calls[number].path])
        yield first, max(components(calls[number].rank, rho) for number in numbers)
