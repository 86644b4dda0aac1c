"""The releases that a request's `stack` may name."""

from __future__ import annotations

import pytest

from calculator.common.errors import PlanError
from calculator.inputs.settings import declared
from calculator.inputs.stack import DEFAULT_STACK, StackVersions
from calculator.stack.releases import KNOWN, parse_stack, release


def problem(body: object) -> tuple[str, str]:
    with pytest.raises(PlanError) as refused:
        parse_stack(body)
    (found,) = refused.value.problems
    return found.loc, found.msg


def test_the_default_stack_is_known() -> None:
    assert parse_stack({}) == DEFAULT_STACK
    assert {package.name for package in declared(StackVersions)} == set(KNOWN)
    for package in declared(StackVersions):
        assert parse_stack({package.name: package.default}) == DEFAULT_STACK


@pytest.mark.parametrize("text", ["2.13", "2.13.0", "2.13.1", "2.13.0+cu128"])
def test_a_release_is_written_as_the_library_spells_it(text: str) -> None:
    assert parse_stack({"torch": text}).torch == text
    assert release(text)[:2] == (2, 13)


@pytest.mark.parametrize("text", ["", "2", "2.13.", "v2.13", "2.13.0.dev0", "latest", "2.13\n"])
def test_text_that_is_no_release_is_refused(text: str) -> None:
    loc, message = problem({"torch": text})
    assert loc == "stack.torch"
    assert message.startswith("must be a release such as '2.14'")


def test_a_number_is_refused_because_it_loses_a_zero() -> None:
    assert problem({"torch": 2.13}) == ("stack.torch", "must be a string")


def test_a_release_that_is_not_known_is_refused_with_those_that_are() -> None:
    loc, message = problem({"torch": "1.13"})
    assert loc == "stack.torch"
    assert message.startswith("torch 1.13 is not known: use ")
    assert message.endswith("2.6 to 2.15")
    assert problem({"transformers": "3.0"})[1].endswith("4.57 or 5.0 to 5.24")


def test_a_library_that_changes_no_figure_is_an_unknown_field() -> None:
    loc, message = problem({"accelerate": "1.0"})
    assert loc == "stack.accelerate"
    assert "transformers, peft, bitsandbytes, trl, unsloth, liger_kernel, torch" in message
