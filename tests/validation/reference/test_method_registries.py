"""The real modules and the random requests cover every method."""

from calculator.methods import METHODS
from validation.random_grid.random_requests import METHOD_WEIGHTS, NEWER_METHODS, OPTIONS
from validation.reference.methods import CONFIGS


def test_every_method_is_applied_to_real_modules():
    assert CONFIGS.keys() == METHODS.keys()


def test_every_method_is_among_the_random_requests():
    assert OPTIONS.keys() == METHODS.keys() == METHOD_WEIGHTS.keys() | NEWER_METHODS.keys()
