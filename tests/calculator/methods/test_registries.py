"""Registries of methods name methods that there are, and facts about them are PEFT's."""

from dataclasses import MISSING, fields
from typing import get_args

import peft
import pytest
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import constants

from app.interop.exports import axolotl, llama_factory, peft_script
from app.interop.imports import peft_adapter
from calculator.common.names import MethodName
from calculator.families import FAMILIES
from calculator.lesson import table
from calculator.lesson.worked import on_model
from calculator.methods import METHODS, USUAL_METHODS
from calculator.methods.config_arguments import config_arguments
from calculator.plan.candidates import CANDIDATES
from calculator.plan.reasons.quality import QUALITY
from validation.random_grid import random_requests

REGISTRIES = {
    "a plan's candidates": CANDIDATES,
    "a plan's reasons": QUALITY,
    "the lesson's claims": table.CLAIMS,
    "the lesson's sizes": table.SIZES,
    "the lesson's examples": on_model.SETTINGS,
    "scripts for PEFT": peft_script.SCRIPTS,
    "axolotl's keys": axolotl.METHOD_PARTS,
    "LLaMA-Factory's keys": llama_factory.METHOD_PARTS,
    "what else is read of adapter_config.json": peft_adapter.CHECKS,
    "options of random requests": random_requests.OPTIONS,
    "shares of random requests": random_requests.METHOD_WEIGHTS | random_requests.NEWER_METHODS,
}


def test_a_method_is_registered_under_its_name():
    assert tuple(METHODS) == get_args(MethodName)


@pytest.mark.parametrize("name", REGISTRIES)
def test_a_registry_has_only_methods(name):
    assert REGISTRIES[name].keys() <= METHODS.keys()


def test_a_method_that_plans_try_has_a_reason():
    assert set(USUAL_METHODS) == QUALITY.keys()


def test_a_method_of_peft_is_described_by_its_configuration():
    """Exports, imports and the real modules are made from the settings, which have the names of PEFT's arguments."""
    for name, cls in METHODS.items():
        config = cls.facts.config_class
        if config is not None:
            arguments = {field.name: field.default for field in fields(getattr(peft, config))}
            own = config_arguments(cls())
            assert own.keys() <= arguments.keys(), name
            differing = {key for key, value in own.items() if arguments[key] not in (value, MISSING)}
            assert differing <= {"num_virtual_tokens"}, name
            assert PEFT_TYPE_TO_CONFIG_MAPPING[cls.facts.peft_type].__name__ == config


@pytest.mark.parametrize("name", [name for name, cls in METHODS.items() if cls.facts.default_targets])
def test_default_targets_are_those_of_peft(name):
    facts = METHODS[name].facts
    table = getattr(constants, f"TRANSFORMERS_MODELS_TO_{facts.peft_type.replace('_', '')}_TARGET_MODULES_MAPPING")
    assert facts.default_targets == {family: tuple(table[family]) for family in facts.default_targets}
    assert {family for family in table if family in FAMILIES} <= facts.default_targets.keys()
