"""Measurements that need a GPU; skipped without one."""

import pytest
import torch

from validation.measure import history, layer, step, verdict
from validation.measure.environment import environment, machine
from validation.measure.layer_cases import TOKENS, layer_cases
from validation.measure.report import history_errors
from validation.measure.step_cases import length_cases, rounds

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch sees none here"),
]

CUDA = torch.device("cuda:0")


@pytest.mark.parametrize("case", [case for case in layer_cases(TOKENS) if case.quick], ids=lambda case: case.name)
def test_a_layer_on_the_gpu_allocates_what_the_calculator_predicts(case):
    for moment in layer.measured(case, CUDA)["moments"].values():
        assert moment["measured"]["allocated"] == pytest.approx(moment["predicted"]["allocated"], rel=0.01)
        if moment["predicted"]["peak_allocated"] is not None:
            assert moment["measured"]["peak_allocated"] == pytest.approx(
                moment["predicted"]["peak_allocated"], rel=0.01
            )


@pytest.fixture(scope="module")
def first_round():
    return rounds(machine(environment(CUDA)))[0]


def test_a_steps_peak_on_the_gpu_is_within_a_per_cent(first_round):
    for case in first_round[:6]:
        row = step.measured(case.request, CUDA)
        assert row["measured"]["peak_allocated"] == pytest.approx(row["predicted"]["peak_allocated"], rel=0.01)


def test_a_capped_run_ends_as_predicted_and_frees_cached_blocks_where_the_replay_does(first_round):
    here = machine(environment(CUDA))
    for case in (first_round[1], *length_cases(here)[:2]):
        for run in verdict.capped(case, CUDA)["runs"]:
            assert run["ran"] == run["should_run"]
            if run["should_run"]:
                assert bool(run["retries"]["measured"]) == bool(run["retries"]["predicted"])


def test_a_history_reserves_what_its_replay_does_within_some_per_cent():
    for case in length_cases(machine(environment(CUDA))):
        row = history.measured(case, CUDA)
        most, middle = history_errors(row)
        assert (abs(most) < 0.05, abs(middle) < 0.05) == (True, True)
        assert row["counts"] == {"retries": 0, "ooms": 0}
