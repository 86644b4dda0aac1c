"""A plan on the command line: a request's file, and options that say more or otherwise."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from app.cli import files, options
from app.forms.fields import FIELDS
from app.forms.plan_form import model_named
from calculator.common.errors import refusal
from calculator.methods import METHODS

if TYPE_CHECKING:
    import argparse

    from pydantic import BaseModel


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what gives the request, and how its answer is written."""
    parser.add_argument("--request", metavar="FILE", help="a JSON request to start from; - reads standard input")
    parser.add_argument("--json", action="store_true", help="print the API's answer")
    model_arguments(parser)
    options.declare(parser, FIELDS.values())


def model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what names the model."""
    parser.add_argument("--model", metavar="ID", help="a catalogue id, a hub URL, or a bare number of parameters")
    parser.add_argument("--config", metavar="FILE", help="a config.json, where the catalogue lacks the model")


def method_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the choice of one method."""
    parser.add_argument("--method", "--method.name", metavar="NAME", help=f"one of {', '.join(METHODS)}")


def body(told: argparse.Namespace) -> Any:
    """The request with one method, as the API would get it.

    Raises:
        PlanError: where a file can't be read as what it should be.
    """
    given = common(told)
    if told.method is not None:
        given = options.merged({"method": {}}, given)
        given["method"] = {"name": told.method, **given["method"]}
    return laid_over(told, given)


def common(told: argparse.Namespace) -> dict[str, Any]:
    """What the options give of a request, settings of methods under `method`."""
    given = options.given(told, FIELDS.values())
    named = model(told)
    return given if named is None else {**given, "model": named}


def model(told: argparse.Namespace) -> Any:
    """The model that the options name, if they name one."""
    if told.config is None:
        return None if told.model is None else model_named(told.model)
    if told.model is not None:
        raise refusal("model", "give either --model or --config, not both", told.model)
    return {"config": files.json("--config", told.config)}


def laid_over(told: argparse.Namespace, given: dict[str, Any]) -> Any:
    """The request's file with the options laid over it."""
    if told.request is None:
        return given
    return options.merged(stated(told), given)


def stated(told: argparse.Namespace) -> dict[str, Any]:
    """The request that a file states.

    Raises:
        PlanError: where it holds none.
    """
    found = files.json("--request", told.request)
    if not isinstance(found, dict):
        raise refusal("--request", "the request must be an object, as the API takes it", found)
    return found


def shown(told: argparse.Namespace, answer: BaseModel, text: str) -> None:
    """Print an answer: as the API writes it, or as text."""
    sys.stdout.write(f"{answer.model_dump_json(indent=2) if told.json else text}\n")
