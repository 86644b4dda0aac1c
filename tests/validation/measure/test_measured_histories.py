"""Real steps of drawn lengths, and the caps of verdicts; on the CPU, so without the allocator's counters."""

import pytest
import torch

from calculator.estimation import sample_lengths as sample_lengths_module
from calculator.estimation.estimate import estimate
from calculator.estimation.history_replay import Histories
from calculator.estimation.sample_lengths import sample_lengths, with_longest_batch
from validation.measure import history, verdict
from validation.measure.meter import counts, meter_of
from validation.measure.step_cases import METHODS, TINY, StepCase, length_cases, small

pytestmark = pytest.mark.filterwarnings("ignore")

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Histories of a few steps, which a CPU runs in a second."""
    monkeypatch.setattr(sample_lengths_module, "BEFORE", 3)
    monkeypatch.setattr(sample_lengths_module, "AFTER", 1)


TRAINING = {"micro_batch_size": 2, "sequence_lengths": [[8, 6], [16, 3], [24, 1]]}


def case_of(**training):
    body = {"model": {"config": TINY}, "method": METHODS["lora"], "training": {**TRAINING, **training}}
    return StepCase(name="lengths", body=body)


def test_a_history_runs_with_its_lengths_and_masks_in_their_order():
    case, shapes = case_of(), []

    class Noted(history.LengthsRun):
        def _micro_batch(self, input_ids, mask, **options):
            shapes.append((input_ids.shape[1], mask is not None))
            super()._micro_batch(input_ids, mask, **options)

    steps = sample_lengths(case.request.training).history(case.request.training, 1)
    with meter_of(CPU) as meter:
        assert Noted(with_longest_batch(case.request), CPU, meter).play(steps, None) == [None] * 5
    assert shapes == [(batch.length, batch.padding) for step in steps for batch in step]


@pytest.mark.parametrize(
    ("place", "calls"),
    [
        ("after_forward", [(0, "forward"), (2, "forward")]),
        ("after_step", [(1, "optimizer_step"), (3, "optimizer_step")]),
    ],
)
def test_a_cache_is_emptied_where_the_replay_empties_it(monkeypatch, place, calls):
    case, found = case_of(torch_empty_cache_steps=2, empty_cache_at=place), []
    histories = Histories.from_training(case.request.training)
    with meter_of(CPU) as meter:
        run = history.LengthsRun(with_longest_batch(case.request), CPU, meter)
        steps, ended = histories.steps[0][:4], []
        monkeypatch.setattr(run.meter, "read", lambda **_: ended.append(1) or meter_reading())
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: found.append((len(ended), run.phase)))
        run.play(steps, histories.empty_cache)
    assert found == calls


def meter_reading():
    return history.meter_of(CPU).read()


def test_a_measured_history_has_its_prediction_and_no_counters_on_the_cpu():
    row = history.measured(case_of(), CPU)
    histories = Histories.from_training(case_of().request.training)
    seed, result = history.worst(case_of().request, histories)
    assert (row["seed"], row["predicted"]["reserved"]) == (seed, [*result.reserved])
    assert row["measured"] == {"reserved": [None] * len(result.reserved)}
    assert (row["out_of_memory"], row["counts"], counts(CPU)) == (None, None, None)


def test_running_out_of_memory_in_a_history_is_recorded(monkeypatch):
    def full(self, *_):
        self.phase = "backward"
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(history.LengthsRun, "play", full)
    row = history.measured(case_of(), CPU)
    assert row["measured"] is None
    assert row["out_of_memory"] == {"phase": "backward", "message": "CUDA out of memory."}


@pytest.mark.parametrize("case", [small({})[1], case_of()], ids=lambda case: case.name)
def test_caps_are_above_close_to_and_below_what_a_run_needs(case):
    above, least, below = verdict.caps(case.request)
    memory = estimate(case.request).memory
    assert above[0] >= memory.peak_reserved_bytes
    assert above[0] >= least[0] > below[0]
    assert (above[1], below[1]) == (0, None)
    assert below[0] < memory.peak_allocated_bytes + memory.library_workspace_bytes
    assert least[1] is not None


def test_the_cases_of_lengths_are_histories_with_a_cache_that_is_kept_and_one_that_is_emptied():
    cases = length_cases({"device": {"gpu": "h100-sxm5-80gb"}})
    assert len({case.name for case in cases}) == len(cases)
    assert all(estimate(case.request).memory.history is not None for case in cases)
    training = [case.request.training for case in cases]
    places = {settings.empty_cache_at for settings in training if settings.torch_empty_cache_steps}
    assert places == {"after_forward", "after_step"}
    assert any(settings.torch_empty_cache_steps is None for settings in training)
