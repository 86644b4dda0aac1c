"""Replays of a run that tell each other what stages left, against replays that know nothing of others."""

from random import Random

import pytest

from calculator.allocator.capacity import CappedReplays
from calculator.allocator.known_stages import KnownStage
from calculator.allocator.segments import MIB
from calculator.estimation.request import parse_request
from tests.calculator.allocator.test_capacity import FULL, GIB, LLAMA, LORA, device_of, live, run_of
from tests.calculator.random_plans import plans

PAGE = 2 * MIB
ACCUMULATED = LLAMA | {"method": {"name": "full"}, "training": {"gradient_accumulation_steps": 3}}
DDP = LORA | {"device": {"gpu": "h100", "count": 4, "sharding": "ddp"}}


@pytest.fixture
def found(monkeypatch):
    """How often a stage was known, and how often not; from the first replay on."""
    counts, left = {True: 0, False: 0}, KnownStage.left

    def counted(self, number, pool):
        result = left(self, number, pool)
        counts[result is not None] += 1
        return result

    monkeypatch.setattr(KnownStage, "left", counted)
    return counts


def all_agree(request, chance, count):
    run, alive = run_of(request), live(request)
    together = CappedReplays(run)
    together.share()
    most = together.within(device_of(10_000 * GIB)).peak_reserved_bytes
    for _ in range(count):
        start = chance.randrange(int(alive * 0.99), most)
        for page in range(3):
            device = device_of(start - page * PAGE)
            assert together.within(device) == CappedReplays(run, flat=page > 0).within(device)


@pytest.mark.parametrize("body", [LORA, FULL, ACCUMULATED, DDP], ids=["lora", "full", "accumulated", "ddp"])
def test_replays_together_answer_as_replays_alone(body, found):
    all_agree(parse_request(body), Random(29), 2)
    assert found[True] > 20


def test_replays_of_random_plans_together_answer_as_replays_alone(found):
    for request in plans(seed=31, count=3):
        all_agree(request, Random(37), 2)
    assert found[True] > 50
