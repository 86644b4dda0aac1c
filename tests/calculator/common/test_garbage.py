"""The garbage collector while a request is answered."""

import gc

import pytest

from calculator.common.errors import PlanError
from calculator.common.garbage import without_collections
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request


@pytest.fixture
def collections():
    """The collections from now on."""
    found = []

    def note(phase, _info):
        found.append(phase)

    gc.callbacks.append(note)
    yield found
    gc.callbacks.remove(note)


def test_no_cycle_is_collected_while_a_decorated_function_runs(collections):
    def collected():
        before = len(collections)
        lists = [[n] for n in range(100_000)]
        return len(collections) - before, len(lists)

    assert collected()[0] > 0
    assert without_collections(collected)()[0] == 0
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    try:
        without_collections(list)()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_it_is_enabled_again_after_a_refusal():
    request = {"model": "gpt2", "method": {"name": "lora", "target_modules": ["none"]}}
    with pytest.raises(PlanError):
        estimate(parse_request(request))
    assert gc.isenabled()
