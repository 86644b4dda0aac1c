"""Objects that outlive their last reference: frames that other threads read, other Pythons."""

import os
import subprocess
import sys
from collections import deque
from itertools import product
from threading import Event, Thread

import pytest

from calculator import Training, estimate
from calculator.engine.frame_snapshots import SNAPSHOTS, without_frame_snapshots
from calculator.estimation.recent_series import RECENT_SERIES
from calculator.methods import LoRA

TRAINERS = (None, "trl-dpo", "trl-grpo")


def peaks(layers):
    """Peaks of requests that share no trace: each interprets a step."""
    RECENT_SERIES.clear()
    requests = product(TRAINERS, ("none", "all"), (False, True), layers)
    return [
        estimate(
            {"config": {"model_type": "gpt2", "n_layer": count, "n_embd": 64, "n_head": 4, "vocab_size": 1000}},
            LoRA(r=4, bias=bias),
            Training(micro_batch_size=2, sequence_length=64, trainer=trainer, gradient_checkpointing=checkpoints),
            reserved="rule",
        ).memory.peak_allocated_bytes
        for trainer, bias, checkpoints, count in requests
    ]


def sampled(calculate):
    """Return a function's result, and how often another thread reads all frames meanwhile."""
    stopped, samples, reads = Event(), deque(maxlen=3), [0]

    def sample():
        while not stopped.wait(0.0002):
            samples.append(sys._current_frames())
            reads[0] += 1

    thread = Thread(target=sample)
    thread.start()
    try:
        return calculate(), reads[0]
    finally:
        stopped.set()
        thread.join()


def test_a_thread_that_samples_frames_changes_no_peak():
    original, interval = sys._current_frames, sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    try:
        found, reads = sampled(lambda: peaks((3, 5)))
    finally:
        sys.setswitchinterval(interval)
    assert reads > 0
    assert found == peaks((3, 5))
    assert sys._current_frames is original


def test_frames_are_read_once_the_interpretation_ends():
    began, ended, order = Event(), Event(), []

    @without_frame_snapshots
    def interpret():
        began.set()
        ended.wait(5)
        order.append("interpreted")

    def read():
        frames = sys._current_frames()
        order.append("read")
        return frames

    interpretation = Thread(target=interpret)
    interpretation.start()
    assert began.wait(5)
    reading = Thread(target=read)
    reading.start()
    reading.join(0.05)
    assert order == []
    ended.set()
    interpretation.join()
    reading.join()
    assert order == ["interpreted", "read"]


def test_a_thread_reads_frames_in_its_own_interpretation():
    assert without_frame_snapshots(without_frame_snapshots(sys._current_frames))()


def test_the_original_is_restored_after_an_error():
    original = sys._current_frames

    @without_frame_snapshots
    def fail():
        assert sys._current_frames is not original
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert sys._current_frames is original


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:This process")
def test_a_forked_process_waits_for_no_thread_of_its_parent():
    began, ended = Event(), Event()

    @without_frame_snapshots
    def interpret():
        began.set()
        ended.wait(5)

    thread = Thread(target=interpret)
    thread.start()
    assert began.wait(5)
    child = os.fork()
    if child == 0:
        os._exit(0 if sys._current_frames() and SNAPSHOTS.begin() and sys._current_frames() else 1)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        ended.set()
        thread.join()


def test_another_python_than_cpython_is_refused():
    code = "import sys; sys.implementation.name = 'pypy'; import calculator.engine.tape"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Headroom needs CPython" in ended.stderr
