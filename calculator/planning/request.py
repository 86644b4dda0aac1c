"""A plan's request, parsed from decoded JSON. Every problem is named."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, get_args

from calculator.common.errors import PlanError, Problem, refusal
from calculator.devices.verdict import card_of, given_twice
from calculator.estimation.request import ModelReference, parse_device, parse_model, parse_reserved
from calculator.estimation.several_gpus import sharding_problems
from calculator.inputs.settings import parse
from calculator.inputs.sharding import MODELED, ShardingName
from calculator.inputs.stack import StackVersions
from calculator.inputs.training import Training
from calculator.inputs.unknown_fields import unknown_field
from calculator.planning.needs import Needs
from calculator.planning.trainer_settings import parse_training
from calculator.stack.releases import parse_stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.estimation.request import ReservedBy
    from calculator.inputs.device import Device

#: The largest number of models, and of devices, in one request.
MOST_OF_A_KIND = 8

#: The largest number of pairs of a model and a device in one request.
MOST_PAIRS = 12

#: The shardings that a plan chooses from if a request for several GPUs names none.
SHARDINGS = tuple(name for name in get_args(ShardingName) if name in MODELED - {"none"})

KNOWN = ("model", "models", "device", "devices", "training", "needs", "stack", "reserved")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDevice:
    """A device of a plan request.

    Attributes:
        requested: The device in the request.
        options: The device with each sharding to choose from. Only one, unless several GPUs have no sharding.
    """

    requested: Device
    options: tuple[Device, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """A shortlist of models, the devices at hand, and the needs. `length_given` is that of an estimate's request."""

    models: tuple[ModelReference, ...]
    devices: tuple[PlannedDevice, ...]
    needs: Needs
    length_given: bool = True
    reserved: ReservedBy = "replay"
    training: Training = field(default_factory=Training)
    stack: StackVersions = field(default_factory=StackVersions)


#: A value of each field that a plan requires.
_EXAMPLES = {"model": '"meta-llama/Llama-3.1-8B"', "device": '{"gpu": "RTX 4090"}'}


def parse_plan(body: Any) -> PlanRequest:
    """Read a plan's request from decoded JSON.

    Raises:
        PlanError: with every problem found, each at its dotted path.
    """
    if not isinstance(body, dict):
        raise refusal("", "the request must be an object", body)
    problems = [Problem(loc=key, msg=unknown_field(key, KNOWN), input=body[key]) for key in body if key not in KNOWN]

    def checked(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except PlanError as error:
            problems.extend(error.problems)
            return ()

    models = checked(lambda: _listed(body, "model", _model))
    devices = checked(lambda: _listed(body, "device", _device))
    training = checked(lambda: parse_training(body.get("training", {})))
    needs = checked(lambda: _parse_needs(body.get("needs", {})))
    stack = checked(lambda: parse_stack(body.get("stack", {})))
    reserved = checked(lambda: parse_reserved(body))
    if len(models) * len(devices) > MOST_PAIRS:
        message = f"{len(models)} models on {len(devices)} devices are more than {MOST_PAIRS} pairs: split the request"
        problems.append(Problem(loc="devices", msg=message, input=body.get("devices")))
    if problems:
        raise PlanError(*problems)
    return PlanRequest(
        models=models,
        devices=devices,
        needs=needs,
        length_given="sequence_length" in body.get("needs", {}),
        reserved=reserved,
        training=training,
        stack=stack,
    )


def _listed(body: dict[str, Any], one: str, read: Callable[[Any, str], Any]) -> tuple[Any, ...]:
    """Return the values of `model` or `models`. One of the two is required. null counts as absent."""
    several = f"{one}s"
    single, listed = body.get(one), body.get(several)
    if single is None and listed is None:
        raise refusal(one, f"is required, such as {_EXAMPLES[one]}; or give a list of {several}", single)
    if single is not None and listed is not None:
        raise refusal(one, f"give either {one} or a list of {several}, not both", single)
    if single is not None:
        return (read(single, one),)
    if not isinstance(listed, list) or not 0 < len(listed) <= MOST_OF_A_KIND:
        raise refusal(several, f"must be a list of 1 to {MOST_OF_A_KIND}", listed)
    values: list[Any] = []
    problems: list[Problem] = []
    for index, value in enumerate(listed):
        try:
            values.append(read(value, f"{several}.{index}"))
        except PlanError as error:
            problems += error.problems
    if problems:
        raise PlanError(*problems)
    return tuple(values)


def _model(body: Any, loc: str) -> ModelReference:
    model = parse_model(body, loc)
    if model.parameters is not None:
        raise refusal(f"{loc}.parameters", "a plan needs a model's shapes: give an id or a config", model.parameters)
    return model


def _device(body: Any, loc: str) -> PlannedDevice:
    device = parse_device(body, loc)
    is_open = device.count > 1 and isinstance(body, dict) and "sharding" not in body
    options = tuple(replace(device, sharding=name) for name in SHARDINGS) if is_open else (device,)
    problems = tuple(_unplanned(options[0], loc))
    if problems:
        raise PlanError(*problems)
    return PlannedDevice(requested=device, options=options)


def _unplanned(device: Device, loc: str) -> Iterator[Problem]:
    if device.gpu is None and device.memory_bytes is None:
        yield Problem(loc=f"{loc}.gpu", msg="a plan needs a GPU: name one, or give memory_bytes", input=None)
    yield from sharding_problems(device, loc)
    card = card_of(device)
    if card is not None and device.memory_bytes is not None:
        yield given_twice(card, device.memory_bytes, loc)


def _parse_needs(body: Any) -> Needs:
    needs = parse(Needs, body, "needs")
    needs.check()
    return needs
