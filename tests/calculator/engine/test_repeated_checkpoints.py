"""A recomputation that repeats the first run of a checkpoint has the events of one that runs the function again."""

from itertools import groupby

import pytest

from calculator.engine.checkpoint import Checkpoint, RepeatedCheckpoint
from calculator.engine.tape import Tape
from calculator.estimation.estimate import resident_state
from calculator.estimation.request import parse_request
from calculator.training_step.run import interpreted
from calculator.training_step.training_context import training_context

REQUESTS = (
    {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "lora", "target_modules": "all-linear"}},
    {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "lora", "lora_dropout": 0.1}},
    {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "qlora"}, "training": {"gradient_accumulation_steps": 2}},
    {"model": "google/gemma-2-2b", "method": {"name": "full"}, "training": {"padding": True, "micro_batch_size": 2}},
    {"model": "EleutherAI/pythia-70m", "method": {"name": "ia3"}, "training": {"attention": "eager"}},
    {"model": "mistralai/Mixtral-8x7B-v0.1", "method": {"name": "lora", "target_modules": ["q_proj"]}},
    {"model": "HuggingFaceTB/SmolLM2-135M", "method": {"name": "full"}, "training": {"optimizer": "lomo"}},
    {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "lora"}, "training": {"trainer": "trl-dpo"}},
    {
        "model": "meta-llama/Llama-3.2-1B",
        "method": {"name": "lora"},
        "training": {"trainer": "torchtune", "adapter_dtype": "model"},
    },
    {
        "model": "meta-llama/Llama-3.2-1B",
        "method": {"name": "lora"},
        "device": {"count": 2, "sharding": "zero2"},
    },
)


def _step(body, *, replayed=False):
    """The rows, the marks and the events of a checkpointed step. Rows that are freed together are in order."""
    training = {"sequence_length": 256, "gradient_checkpointing": True, **body.get("training", {})}
    prepared = resident_state(parse_request({**body, "training": training})).prepared
    prepared.recorded_passes.are_replayed = replayed
    tape = interpreted(training_context(prepared), whole=True, every_pass=True).tape
    events = [
        sorted(found) if frees else list(found) for frees, found in groupby(tape.events, key=lambda event: event < 0)
    ]
    return tape.rows, tape.marks, events


def _count(monkeypatch):
    """The number of saved tensors of each recomputation that repeats the first run."""
    repeated, repeat = [], RepeatedCheckpoint._repeat

    def counted(self):
        repeated.append(len(self.holders))
        return repeat(self)

    monkeypatch.setattr(RepeatedCheckpoint, "_repeat", counted)
    return repeated


@pytest.mark.parametrize("body", REQUESTS, ids=[f"{body['model']} {body['method']['name']}" for body in REQUESTS])
def test_a_repeated_run_has_the_events_of_a_second_run(body, monkeypatch):
    repeated = _count(monkeypatch)
    found = _step(body)
    assert repeated
    monkeypatch.setattr(RepeatedCheckpoint, "recompute", Checkpoint.recompute)
    assert found == _step(body)


def test_a_step_that_is_replayed_runs_the_layers_again(monkeypatch):
    repeated = _count(monkeypatch)
    _step(REQUESTS[0], replayed=True)
    assert not repeated


@pytest.mark.parametrize("leaves", [False, True])
def test_a_function_runs_again_if_it_leaves_more_than_its_output(leaves):
    runs, left, holders = [], [], []

    def function(x):
        runs.append(x)
        saved = x.tape.new((2, 2), "float32", "saved")
        holders.append(x.tape.hooks[-1].pack(saved))
        if leaves:
            left.append(saved)
        return x.tape.new((4, 4), "float32", "out")

    tape = Tape()
    x = tape.new((4, 4), "float32", "x")
    own = RepeatedCheckpoint(function, (x,), None)
    tape.hooks.append(own)
    own.end(function(x))
    tape.hooks.pop()
    (saved,) = own.unpack(holders[:1])
    assert len(runs) == 1 + leaves
    assert (saved.shape, tape.rows[saved.storage.row][0]) == ((2, 2), "saved")
