"""A trace under FSDP2 needs a PyTorch that frees buffers when that of the request does."""

import pytest
import torch

from calculator.common.errors import PlanError
from calculator.inputs.sharding import Sharding
from calculator.inputs.stack import StackVersions
from validation.sharding.refusals import check_torch


def names_a_release(installed, asked, sharding, monkeypatch):
    monkeypatch.setattr(torch, "__version__", installed)
    try:
        check_torch(StackVersions(torch=asked), Sharding(name=sharding, count=2))
    except PlanError as error:
        (problem,) = error.problems
        assert problem.loc == "stack.torch"
        return problem.msg
    return ""


@pytest.mark.parametrize(
    ("installed", "asked", "sharding"),
    [("2.15.0", "2.15", "fsdp"), ("2.13.0", "2.14", "fsdp"), ("2.15.0", "2.14", "ddp"), ("2.13.0", "2.15", "zero3")],
)
def test_releases_with_the_same_steps_are_traced(installed, asked, sharding, monkeypatch):
    assert not names_a_release(installed, asked, sharding, monkeypatch)


@pytest.mark.parametrize(("installed", "asked"), [("2.15.0+cu132", "2.14"), ("2.13.0+cpu", "2.15")])
def test_a_release_that_frees_buffers_at_other_moments_is_refused(installed, asked, monkeypatch):
    message = names_a_release(installed, asked, "fsdp", monkeypatch)
    assert f"use {installed[:4]}, or install PyTorch {asked}" in message
