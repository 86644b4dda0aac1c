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


def body(args: argparse.Namespace) -> Any:
    """The request with one method, as the API would get it.

    Raises:
        PlanError: where a file can't be read as what it should be.
    """
    given = common(args)
    if args.method is not None:
        given = options.merged({"method": {}}, given)
        given["method"] = {"name": args.method, **given["method"]}
    return laid_over(args, given)


def common(args: argparse.Namespace) -> dict[str, Any]:
    """What the options give of a request, settings of methods under `method`."""
    given = options.given(args, FIELDS.values())
    named = model(args)
    return given if named is None else {**given, "model": named}


def model(args: argparse.Namespace) -> Any:
    """The model that the options name, if they name one."""
    if args.config is None:
        return None if args.model is None else model_named(args.model)
    if args.model is not None:
        raise refusal("model", "give either --model or --config, not both", args.model)
    return {"config": files.json("--config", args.config)}


def laid_over(args: argparse.Namespace, given: dict[str, Any]) -> Any:
    """The request's file with the options laid over it."""
    if args.request is None:
        return given
    return options.merged(stated(args), given)


def stated(args: argparse.Namespace) -> dict[str, Any]:
    """The request that a file states.

    Raises:
        PlanError: where it holds none.
    """
    found = files.json("--request", args.request)
    if not isinstance(found, dict):
        raise refusal("--request", "the request must be an object, as the API takes it", found)
    return found


def shown(args: argparse.Namespace, answer: BaseModel, text: str) -> None:
    """Print an answer: as the API writes it, or as text."""
    sys.stdout.write(f"{answer.model_dump_json(indent=2) if args.json else text}\n")
