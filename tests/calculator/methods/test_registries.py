"""Registries of methods name methods that there are."""

from typing import get_args

import pytest

from app.interop.exports import axolotl, llama_factory, script_kinds, torchtune
from app.interop.imports import peft_adapter
from calculator import methods
from calculator.common.names import MethodName
from calculator.lesson import table
from calculator.lesson.worked import on_model
from calculator.methods import METHODS, USUAL_METHODS
from calculator.planning.candidates import CANDIDATES
from calculator.planning.reasons.quality import QUALITY
from validation.random_grid import random_requests

REGISTRIES = {
    "a plan's candidates": CANDIDATES,
    "a plan's reasons": QUALITY,
    "the lesson's claims": table.CLAIMS,
    "the lesson's sizes": table.SIZES,
    "the lesson's examples": on_model.SETTINGS,
    "scripts for PEFT": script_kinds.SCRIPTS,
    "axolotl's keys": axolotl.METHOD_PARTS,
    "LLaMA-Factory's keys": llama_factory.METHOD_PARTS,
    "torchtune's keys": torchtune.METHOD_PARTS,
    "what else is read of adapter_config.json": peft_adapter.CHECKS,
    "options of random requests": random_requests.OPTIONS,
    "shares of random requests": random_requests.METHOD_WEIGHTS | random_requests.NEWER_METHODS,
}


def test_a_method_is_registered_under_its_name():
    assert tuple(METHODS) == get_args(MethodName)


@pytest.mark.parametrize("name", REGISTRIES)
def test_a_registry_has_only_methods(name):
    assert REGISTRIES[name].keys() <= METHODS.keys()


def test_the_package_exports_every_method():
    assert {cls.__name__ for cls in METHODS.values()} <= set(methods.__all__)


def test_a_method_that_peft_lacks_has_its_own_script():
    lacking = {name for name, cls in METHODS.items() if cls.facts.config_class is None}
    assert lacking <= script_kinds.SCRIPTS.keys()


def test_a_method_that_plans_try_has_a_reason():
    assert set(USUAL_METHODS) == QUALITY.keys()
