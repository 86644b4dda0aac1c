"""Traces for a server: kept by what they depend on, a few at once, and a short queue."""

import json
from threading import Event, Thread

import pytest

from app.engines import tracer as module
from app.engines.process import AbandonedError
from app.engines.tracer import BusyError, Tracer, body_of
from calculator.estimation.request import parse_request
from calculator.methods import METHODS

CONFIG = {"model_type": "kimi_linear", "num_hidden_layers": 2}


def request(**changes):
    return parse_request({"model": {"config": CONFIG}, "method": {"name": "lora"}, **changes})


class Runs:
    """Counts what is traced; the trace of a body is its text."""

    def __init__(self):
        self.bodies = []

    def __call__(self, body, *_):
        self.bodies.append(body)
        return json.dumps(body)


def traced(tracer, *requests):
    return [tracer.trace(request, lambda: False, lambda _: None) for request in requests]


def test_the_device_and_the_reserved_memory_are_no_part_of_a_trace():
    runs = Runs()
    traced(Tracer(runs), request(), request(device={"gpu": "rtx-4090"}), request(reserved="rule"))
    assert len(runs.bodies) == 1


def test_training_and_method_are_part_of_a_trace():
    runs = Runs()
    traced(Tracer(runs), request(), request(training={"sequence_length": 64}), request(method={"name": "full"}))
    assert len(runs.bodies) == 3


def test_the_oldest_traces_are_forgotten(monkeypatch):
    monkeypatch.setattr(module, "KEPT", 2)
    runs = Runs()
    lengths = [request(training={"sequence_length": length}) for length in (64, 128, 256, 64)]
    traced(Tracer(runs), *lengths)
    assert len(runs.bodies) == 4


def test_a_body_is_the_same_request_again():
    for name in METHODS:
        first = request(method={"name": name}, training={"optimizer": "sgd", "sequence_length": 77})
        again = parse_request(json.loads(json.dumps(body_of(first))))
        assert (again.method, again.training, again.model) == (first.method, first.training, first.model)


def blocked(monkeypatch, waiting):
    """A tracer whose only trace runs until the event is set."""
    monkeypatch.setattr(module, "AT_ONCE", 1)
    monkeypatch.setattr(module, "WAITING", waiting)
    begun, end = Event(), Event()

    def run(*_):
        begun.set()
        end.wait(30)

    tracer = Tracer(run)
    thread = Thread(target=traced, args=(tracer, request()))
    thread.start()
    begun.wait(30)
    return tracer, end, thread


def test_a_request_more_than_can_wait_is_refused(monkeypatch):
    tracer, end, thread = blocked(monkeypatch, waiting=0)
    try:
        with pytest.raises(BusyError):
            traced(tracer, request(training={"sequence_length": 64}))
    finally:
        end.set()
        thread.join()
    traced(tracer, request(training={"sequence_length": 64}))


def test_a_client_that_disconnects_leaves_the_queue(monkeypatch):
    tracer, end, thread = blocked(monkeypatch, waiting=1)
    said = []
    other = request(training={"sequence_length": 64})
    try:
        with pytest.raises(AbandonedError):
            tracer.trace(other, lambda: bool(said), said.append)
        with pytest.raises(AbandonedError):
            tracer.trace(other, lambda: True, said.append)
    finally:
        end.set()
        thread.join()
    assert said[0] == "waiting for other traces"
