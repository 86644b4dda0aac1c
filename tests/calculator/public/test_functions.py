"""The Python functions read what the parsers read, and answer what they answer."""

import inspect
from typing import get_type_hints

import pytest

import calculator
from calculator import Device, Needs, PlanError, StackVersions, Training, compare, estimate, limits, plan, public
from calculator.estimation.estimate import estimate as parsed_estimate
from calculator.estimation.request import Choices, parse_request
from calculator.inputs.settings import declared
from calculator.inputs.training_settings import CheckpointingKwargs
from calculator.methods import METHODS, LoRA
from calculator.planning.request import KNOWN
from calculator.public.body import body, json_value
from calculator.public.functions import Options

SMALL = "HuggingFaceTB/SmolLM2-135M"


def parameters(function):
    named = {name for name in inspect.signature(function).parameters if name != "options"}
    return named | (get_type_hints(Options).keys() if "options" in inspect.signature(function).parameters else set())


def known_fields(parse):
    """The fields that a refusal of an unknown one lists."""
    with pytest.raises(PlanError) as refused:
        parse({"model": SMALL, "method": {"name": "lora"}, "unknown": 1})
    (problem,) = [problem for problem in refused.value.problems if problem.loc == "unknown"]
    return set(problem.msg.partition("known fields are ")[2].split(", "))


def test_options_are_the_choices_of_a_request():
    assert get_type_hints(Options) == {choice.name: choice.type for choice in declared(Choices)}


@pytest.mark.parametrize(
    ("function", "fields"),
    [
        (estimate, lambda: known_fields(parse_request)),
        (compare, lambda: known_fields(public.functions.parse_comparison)),
        (limits, lambda: known_fields(parse_request) | {"solve_for"}),
        (plan, lambda: set(KNOWN)),
    ],
)
def test_a_function_has_every_field_of_its_request(function, fields):
    assert parameters(function) == fields()


def test_the_names_of_the_package_are_the_public_ones():
    assert calculator.__all__ == public.__all__
    assert [name for name in calculator.__all__ if getattr(calculator, name) is not getattr(public, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        calculator.nothing  # noqa: B018  reading it raises


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_method_is_written_as_its_name_and_the_given_settings(method):
    assert json_value(method()) == {"name": method.name}


def test_settings_are_parsed_as_they_were_given():
    training = Training(
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs=CheckpointingKwargs(use_reentrant=True),
        sequence_lengths=((256, 3), (512, 1)),
    )
    method = LoRA(r=4, target_modules=("q_proj", "v_proj"), use_rslora=True)
    device, stack = Device(memory_bytes=1 << 33), StackVersions(torch="2.13")
    parsed = parse_request(body(model=SMALL, method=method, training=training, device=device, stack=stack))
    assert (parsed.method, parsed.training, parsed.device, parsed.stack) == (method, training, device, stack)
    assert not parsed.length_given


def test_settings_and_objects_of_json_have_the_same_answer():
    typed = estimate(SMALL, LoRA(r=4), Training(sequence_length=128), Device(gpu="RTX 4090"), reserved="rule")
    request = {
        "model": SMALL,
        "method": {"name": "lora", "r": 4},
        "training": {"sequence_length": 128},
        "device": {"gpu": "RTX 4090"},
        "reserved": "rule",
    }
    alike = [estimate(**request), parsed_estimate(parse_request(request))]
    assert [answer.memory.peak_allocated_bytes for answer in alike] == [typed.memory.peak_allocated_bytes] * 2
    assert [answer.fit for answer in alike] == [typed.fit] * 2


def test_functions_refuse_what_the_api_refuses():
    with pytest.raises(PlanError, match="a method object is required"):
        estimate(SMALL, "lora")
    with pytest.raises(PlanError, match="a limit needs a GPU"):
        limits("r", SMALL, LoRA())
    with pytest.raises(PlanError, match=r"model: is required, such as .*; or give a list of models"):
        plan(device=Device(gpu="RTX 4090"), needs=Needs())
    with pytest.raises(PlanError, match="unknown field; did you mean reserved"):
        compare(SMALL, reserve="rule")
    with pytest.raises(PlanError, match="headroom estimate --engine traced"):
        estimate(SMALL, LoRA(), engine="traced")
