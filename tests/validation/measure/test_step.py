import pytest
import torch

from calculator.devices import Verdict
from calculator.estimation.estimate import estimate, training_step
from calculator.estimation.request import parse_request
from validation.measure import step
from validation.measure.step_cases import METHODS, rounds, small

pytestmark = pytest.mark.filterwarnings("ignore")

CPU = torch.device("cpu")
H100 = {"device": {"gpu": "h100-sxm5-80gb"}}


@pytest.mark.parametrize("case", small({}), ids=lambda case: case.name)
def test_the_resident_bytes_after_a_real_step_equal_the_calculators(case):
    row = step.measured(case.request, CPU)
    assert row["out_of_memory"] is None
    assert (row["measured"]["load"], row["measured"]["end"]) == (row["predicted"]["load"], row["predicted"]["end"])
    assert row["measured"]["peak_allocated"] is None


def test_biases_of_4_bit_layers_are_in_float32_until_the_first_step():
    config = {"model_type": "gpt2", "n_embd": 256, "n_layer": 2, "n_head": 4, "vocab_size": 300}
    method = {"name": "qlora", "target_modules": "all-linear"}
    training = {"micro_batch_size": 1, "sequence_length": 16}
    request = parse_request({"model": {"config": config}, "method": method, "training": training})
    row = step.measured(request, CPU)
    assert (row["measured"]["load"], row["measured"]["end"]) == (row["predicted"]["load"], row["predicted"]["end"])
    weights = sum(tensor.bytes for tensor in training_step(request).resident.tensors)
    cast = 2 * 2 * (3 * 256 + 256 + 4 * 256 + 256)  # bytes, layers, biases
    assert row["measured"]["load"] == weights + cast


def test_running_out_of_memory_is_recorded(monkeypatch):
    def full(self):
        self.phase = "backward"
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(step.Run, "step", full)
    row = step.measured(small({})[0].request, CPU)
    assert row["measured"] is None
    assert row["out_of_memory"] == {"phase": "backward", "message": "CUDA out of memory. Tried to allocate 2.00 GiB."}


def test_the_first_round_covers_every_method_with_two_batches_and_two_lengths():
    first = rounds(H100)[0]
    shapes = {(c.request.method.name, c.request.training.micro_batch_size) for c in first}
    assert shapes == {(name, batch) for name in METHODS for batch in (1, 4)}
    assert {c.request.training.sequence_length for c in first} == {1024, 512}


@pytest.mark.parametrize("case", [case for cases in rounds(H100) for case in cases], ids=lambda case: case.name)
def test_the_calculator_answers_every_step_on_a_gpu_and_finds_that_it_fits_80_gb(case):
    assert estimate(case.request).fit.verdict == Verdict.FITS


def test_autocast_over_float32_is_measured_on_a_gpu():
    cases = [case.request.training for cases in rounds(H100) for case in cases]
    assert ("float32", "bfloat16") in {(training.dtype, training.autocast) for training in cases}


def test_case_names_are_unique():
    names = [case.name for cases in rounds(H100) for case in cases]
    assert len(set(names)) == len(names)
