"""The request of a command: a JSON file, and options that override it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from app.cli import files, messages, options, terminal
from app.forms.fields import FIELDS, set_at
from app.forms.plan_form import named_model
from app.tools import TOOLS
from calculator.common.errors import refusal
from calculator.methods import METHODS

if TYPE_CHECKING:
    import argparse

    from pydantic import BaseModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a request, and --json."""
    parser.add_argument(
        "--request", metavar="FILE", help="a JSON request that the options override; - reads standard input"
    )
    parser.add_argument("--json", action="store_true", help="print the answer of the JSON API")
    add_model_arguments(parser)
    options.add_fields(parser, FIELDS.values())


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that select the model."""
    parser.add_argument(
        "--model",
        metavar="ID",
        help="a catalogue id, a hub URL, or a number of parameters (with --accounting textbook)",
    )
    parser.add_argument("--config", metavar="FILE", help="a config.json, for a model that is not in the catalogue")


def add_method_argument(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands with one method: the method, and a tool whose defaults the request starts from."""
    parser.add_argument("--method", "--method.name", metavar="NAME", help=f"one of {', '.join(METHODS)}")
    help_text = f"start from the defaults of a trainer or tool: {', '.join(TOOLS)}"
    parser.add_argument("--tool", choices=TOOLS, metavar="NAME", help=help_text)


def body(args: argparse.Namespace) -> Any:
    """Return the request body of a command with one method. The defaults of a tool come first.

    Raises:
        PlanError: if a file cannot be read.
    """
    given = options_body(args)
    if args.method is not None:
        given = options.merged({"method": {}}, given)
        given["method"] = {"name": args.method, **given["method"]}
    given = with_file(args, given)
    if args.tool is None:
        return given
    if TOOLS[args.tool].not_modelled:
        sys.stderr.write(f"Note: {TOOLS[args.tool].not_modelled}\n")
    return options.merged(_defaults(args.tool, given), given)


def complete_body(args: argparse.Namespace) -> Any:
    """Return the request body of a command that needs a model and a method.

    Raises:
        PlanError: if it has none of one. The error names the option.
    """
    given = body(args)
    messages.require(given, "model", "method")
    return given


def _defaults(tool: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the defaults of a tool as a request body, for the method of the given body."""
    method = given.get("method")
    name = method.get("name") if isinstance(method, dict) else None
    defaults: dict[str, Any] = {}
    for path, value in TOOLS[tool].settings_for(str(name)).items():
        set_at(defaults, path.split("."), value)
    return defaults


def options_body(args: argparse.Namespace) -> dict[str, Any]:
    """Return the part of the request body that the options give; method settings are under `method`."""
    given = options.body_of(args, FIELDS.values())
    named = model(args)
    return given if named is None else {**given, "model": named}


def model(args: argparse.Namespace) -> Any:
    """Return the model that the options select, or None."""
    if args.config is None:
        return None if args.model is None else named_model(args.model)
    if args.model is not None:
        raise refusal("--model", "give either --model or --config, not both", args.model)
    return {"config": files.json("--config", args.config)}


def with_file(args: argparse.Namespace, given: dict[str, Any]) -> Any:
    """Return the body of the --request file, overridden by the options."""
    if args.request is None:
        return given
    return options.merged(file_body(args), given)


def file_body(args: argparse.Namespace) -> dict[str, Any]:
    """Return the request body of the --request file.

    Raises:
        PlanError: if the file does not contain an object.
    """
    content = files.json("--request", args.request)
    if not isinstance(content, dict):
        raise refusal("--request", "the request must be an object, as in the API", content)
    return content


def print_answer(args: argparse.Namespace, answer: BaseModel, text: str) -> None:
    """Print an answer as JSON, or as text that names the command's options."""
    print_text(answer.model_dump_json(indent=2) if args.json else worded(args, text))


def worded(args: argparse.Namespace, text: str) -> str:
    """Return the text of an answer with the command's options in place of dotted paths."""
    return messages.worded(text, args.option_names, args.typed)


def print_text(text: str) -> None:
    """Print text and a line break."""
    terminal.write(text)
