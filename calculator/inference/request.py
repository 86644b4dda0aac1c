"""The inference request, parsed from decoded JSON. Every problem is collected."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError, Problem, refusal
from calculator.estimation.request import (
    ModelReference,
    ReservedBy,
    parse_device,
    parse_method,
    parse_model,
    parse_reserved,
)
from calculator.estimation.stated_base import with_stated_base
from calculator.inference.settings import Serving
from calculator.inputs.device import Device
from calculator.inputs.settings import parse
from calculator.inputs.stack import StackVersions
from calculator.inputs.unknown_fields import unknown_field
from calculator.stack.releases import parse_stack

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.methods import Method

#: The objects of a request.
KNOWN = ("model", "method", "serving", "device", "stack", "reserved")


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRequest:
    """A model, how it was fine-tuned, and how it is served on which device."""

    model: ModelReference
    method: Method
    serving: Serving = field(default_factory=Serving)
    device: Device = field(default_factory=Device)
    stack: StackVersions = field(default_factory=StackVersions)
    reserved: ReservedBy = "replay"
    #: Whether the request named a context length.
    length_given: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", with_stated_base(self.method, self.model))


def parse_inference(body: Any) -> InferenceRequest:
    """Parse an inference request from decoded JSON.

    Raises:
        PlanError: with every problem, each at its dotted path.
    """
    if not isinstance(body, dict):
        raise refusal("", "the request must be an object", body)
    problems = [Problem(loc=key, msg=unknown_field(key, KNOWN), input=body[key]) for key in body if key not in KNOWN]

    def checked(build: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return build(*arguments)
        except PlanError as error:
            problems.extend(error.problems)
            return None

    model = checked(parse_model, body.get("model"))
    if model is not None and model.parameters is not None:
        message = "serving needs a model's shapes, an id or a config; a bare count has none"
        problems.append(Problem(loc="model.parameters", msg=message, input=model.parameters))
    method = checked(parse_method, body.get("method", {"name": "full"}))
    serving = checked(parse, Serving, body.get("serving", {}), "serving")
    device = checked(parse_device, body.get("device", {}))
    stack = checked(parse_stack, body.get("stack", {}))
    reserved = checked(parse_reserved, body)
    if problems:
        raise PlanError(*problems)
    return InferenceRequest(
        model=model,
        method=method,
        serving=serving,
        device=device,
        stack=stack,
        reserved=reserved,
        length_given="context_length" in body.get("serving", {}),
    )
