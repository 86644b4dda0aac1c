"""Safe reading of untrusted YAML and JSON: size limits, no tags that build objects, no aliases."""

from __future__ import annotations

import re
from math import isfinite
from typing import Any

import yaml

from app.http.bodies import decode_json
from app.http.problems import HTTPProblem, shortened
from calculator.common.errors import PlanError, refusal

#: The longest text that is read, in characters; a long configuration is a fraction of it.
LONGEST = 1 << 14

#: A line by which documentation leaves keys out; in YAML it ends a document.
_LEFT_OUT = re.compile(r"(?m)^[ \t]*\.\.\.[ \t]*$")

#: What a text without keys may be instead.
NEITHER = "a command such as trl sft, nor Python that sets up a run, such as SFTConfig or from_pretrained"

#: How deep lists and objects may lie in each other.
MAX_DEPTH = 16


def mapping(content: Any, loc: str = "content") -> dict[str, Any]:
    """Return the object that a text contains, or that is given instead of a text.

    Raises:
        PlanError: if it cannot be read, with the place and the reason.
    """
    value = _read(content, loc) if isinstance(content, str) else content
    if isinstance(content, str) and not isinstance(value, dict) and (other := _other_language(content)):
        raise refusal(loc, other, shortened(content))
    if isinstance(value, str) and value:
        raise refusal(loc, f"has no keys with values, and is neither {NEITHER}", shortened(value))
    if not isinstance(value, dict) or not value:
        raise refusal(loc, "must contain keys with values: the file's text, or its content as an object", content)
    plain = _plain(value, loc, MAX_DEPTH)
    assert isinstance(plain, dict)
    return plain


def _read(text: str, loc: str) -> Any:
    if len(text) > LONGEST:
        raise refusal(loc, f"is longer than {LONGEST:,} characters", shortened(text))
    try:
        if text.lstrip().startswith("{"):
            return decode_json(text.encode())
        return yaml.load(_LEFT_OUT.sub("", text), _Loader)  # noqa: S506
    except HTTPProblem as error:
        raise refusal(loc, error.detail.replace("the body", "it"), shortened(text)) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        if other := _other_language(text):
            raise refusal(loc, other, shortened(text)) from error
        raise refusal(loc, f"is not YAML: {_mistake(error)}", shortened(text)) from error
    except RecursionError as error:
        raise refusal(loc, f"is nested more than {MAX_DEPTH} levels deep", shortened(text)) from error


def _mistake(error: Exception) -> str:
    if not isinstance(error, yaml.MarkedYAMLError):
        return str(error).splitlines()[0]
    where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
    return f"{where}{error.problem}"


#: Lines of shell scripts: an exported or assigned variable, a command of many, or the end of a block.
_SHELL = re.compile(r"(?m)^#!.*sh\b|^[ \t]*(?:export \w|[A-Za-z_]\w*=\S|(?:echo|cd|set|pip|bash) |fi$|done$)")

#: Lines of Python: an import, a function, a class, or a call whose value has a name.
_PYTHON = re.compile(r"(?m)^(?:import \w|from [\w.]+ import |(?:async )?def \w|class \w|\w+ = [\w.]+\()")


def _other_language(text: str) -> str | None:
    """Return how a text that is no YAML is a program without anything that is read; None if it is none."""
    if _PYTHON.search(text):
        return "is Python that sets up no run that is read, such as SFTConfig, a Trainer or from_pretrained"
    if _SHELL.search(text):
        return "is a shell script without a command that is read, such as trl sft: paste the command that trains"
    return None


def scalar(text: str) -> Any:
    """Return the value of a word of a command line as YAML reads it; other text is unchanged."""
    try:
        return _plain(yaml.load(text, _Loader), "content", MAX_DEPTH)  # noqa: S506
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, PlanError):
        return text


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML brings no types
    """YAML with unique keys, and without aliases, because a few lines of them can expand beyond any memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="aliases are not supported: write the values out", problem_mark=mark)
        return super().compose_node(parent, index)

    def fetch_flow_collection_start(self, token: Any) -> None:
        # The scanner looks ahead at every bracket, over all open ones, which is quadratic.
        if self.flow_level > MAX_DEPTH:
            problem = f"nested more than {MAX_DEPTH} levels deep"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.get_mark())
        super().fetch_flow_collection_start(token)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) < len(node.value):
            raise yaml.MarkedYAMLError(problem="a key appears here twice", problem_mark=node.start_mark)
        return mapping


def _plain(value: Any, loc: str, levels: int) -> Any:
    """Return a value that JSON can represent; dates, sets and non-finite numbers become text."""
    if levels < 0:
        raise refusal(loc, f"is nested more than {MAX_DEPTH} levels deep", None)
    if isinstance(value, dict):
        return {str(key): _plain(part, loc, levels - 1) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part, loc, levels - 1) for part in value]
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and isfinite(value)):
        return value
    return str(value)
