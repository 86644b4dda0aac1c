"""Memory snapshots: pickles that hold more than plain values are refused, and blocks lead back to the run's tensors."""

import os
import pickle

import pytest

from calculator.common.errors import PlanError
from calculator.diagnosis import plain_pickle
from calculator.diagnosis.diagnosis import diagnose, replay_of
from calculator.diagnosis.journal import journal_of
from calculator.diagnosis.plain_pickle import plain
from calculator.diagnosis.snapshot import read_snapshot
from calculator.diagnosis.snapshot_match import match_snapshot
from calculator.diagnosis.written_snapshot import written
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from tests.calculator.diagnosis.test_diagnosis import GPT2, RUNS

PLAIN = {
    "numbers": [0, 255, 256, 65536, -1, 2**40, -(2**63), 1.5, True, False, None],
    "texts": ["", "x" * 300, "é\ud800"],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "empty": [{}, []],
}


class Hostile:
    """An object whose pickle runs a command when Python's own unpickler loads it."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def segment(*sizes, state="active_allocated", device=0, **fields):
    """A hand-made segment with blocks of some sizes."""
    blocks = [{"size": size, "requested_size": size, "address": 0, "state": state, "frames": []} for size in sizes]
    return {"device": device, "address": 0, "total_size": sum(sizes), "blocks": blocks, **fields}


def dumped(segments, trace=()):
    return pickle.dumps({"segments": segments, "device_traces": [[*trace]]}, protocol=4)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_are_read_as_python_reads_them(protocol):
    raw = pickle.dumps(PLAIN, protocol=protocol)
    assert plain(raw) == PLAIN == pickle.loads(raw)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_hostile_pickle_is_refused_and_nothing_runs(protocol, wrapped, tmp_path):
    proof = tmp_path / "ran"
    hostile = Hostile(f"touch {proof}")
    raw = pickle.dumps({"segments": [hostile]} if wrapped else hostile, protocol=protocol)
    with pytest.raises(PlanError, match="nothing is imported or run"):
        read_snapshot(raw)
    assert not proof.exists()
    pickle.loads(raw)
    assert proof.exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x80\x04",
        b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"\x80\x04\x82\x01.",
        b"\x80\x04Pid\n.",
        b"\x80\x04e.",
        b"\x80\x04Na.",
        b"\x80\x04]]Ns.",
        b"\x80\x04h\x05.",
        b"\x80\x04\x8b\xff\xff\xff\x7f.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
        b"(" * 1000 + b".",
        b"\x80\x04NN.",
        pickle.dumps({1, 2}),
        pickle.dumps(b"bytes"),
        pickle.dumps(2**200),
        pickle.dumps({(1,): 2}),
    ],
)
def test_another_or_a_broken_pickle_is_refused_by_the_field(raw):
    with pytest.raises(PlanError) as error:
        plain(raw)
    assert [problem.loc for problem in error.value.problems] == ["snapshot"]


def test_every_truncation_is_refused():
    raw = pickle.dumps(PLAIN)
    for size in range(len(raw)):
        with pytest.raises(PlanError):
            plain(raw[:size])


def test_a_pickle_that_is_too_large_is_refused_unread(monkeypatch):
    monkeypatch.setattr(plain_pickle, "LARGEST", 100)
    with pytest.raises(PlanError, match="more than 100"):
        plain(b"." * 101)


def test_the_device_that_reserves_the_most_is_read_with_its_blocks():
    small, large = segment(512, 1024, device=0), segment(1 << 20, 2 << 20, 512, device=1)
    large["blocks"][0] |= {"requested_size": 1000_000}
    large["blocks"][2] |= {"state": "inactive"}
    found = read_snapshot(pickle.dumps({"segments": [small, large], "device_traces": []}))
    assert (found.device, found.reserved_bytes, found.allocated_bytes) == (1, (3 << 20) + 512, 3 << 20)
    assert found.blocks == {1000_448: 1, 2 << 20: 1}
    assert (found.line, found.failed_bytes) == ((), None)


def test_an_old_snapshot_without_requested_sizes_has_those_of_its_blocks():
    old = segment(1024)
    del old["blocks"][0]["requested_size"]
    assert read_snapshot(dumped([old])).blocks == {1024: 1}


def test_a_history_ends_with_the_blocks_in_use_and_has_the_failed_request():
    trace = [
        {"action": "segment_alloc", "addr": 0, "size": 1 << 21},
        {"action": "alloc", "addr": 0, "size": 1024},
        {"action": "alloc", "addr": 1024, "size": 4096},
        {"action": "free_requested", "addr": 1024, "size": 4096},
        {"action": "free_completed", "addr": 1024, "size": 4096},
        {"action": "oom", "device_free": 3 << 20, "size": 40_000_000},
    ]
    found = read_snapshot(dumped([segment(1024, 512)], trace))
    assert found.line == (1536, 5632, 1536)
    message = found.message()
    assert (message.requested.bytes, message.free.bytes) == (40 << 20, 3 << 20)
    assert message.capacity_bytes == 1536 + (3 << 20)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1, 2], "no snapshot"),
        ({"segments": 5}, "no snapshot"),
        ({"segments": []}, "no segments"),
        ({"segments": [{"total_size": -1, "blocks": []}]}, "no snapshot"),
        ({"segments": [{"total_size": 512, "blocks": [{"size": "512", "state": "active_allocated"}]}]}, "no snapshot"),
        ({"segments": [segment(512)], "device_traces": [[{"size": 1}]]}, "no snapshot"),
    ],
)
def test_plain_values_that_are_no_snapshot_are_refused(value, reason):
    with pytest.raises(PlanError, match=reason):
        read_snapshot(pickle.dumps(value))


def test_shared_lists_that_multiply_are_refused(monkeypatch):
    monkeypatch.setattr("calculator.diagnosis.snapshot.MOST", 1000)
    shared = segment(*[512] * 100)
    with pytest.raises(PlanError, match="more than 1,000 blocks"):
        read_snapshot(dumped([shared] * 11))


def test_a_snapshot_without_a_failed_request_needs_the_message():
    snapshot = read_snapshot(dumped([segment(512)]))
    with pytest.raises(PlanError, match="records no request that failed"):
        diagnose(parse_request(GPT2), None, snapshot)


@pytest.mark.parametrize("body", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("share", [0.5, 0.7])
def test_the_snapshot_of_a_replay_identifies_the_moment_of_its_error(body, share):
    answer = estimate(parse_request(body))
    replay = replay_of(answer)
    capacity = int(share * answer.memory.peak_reserved_bytes)
    raw = written(replay, capacity, capacity + replay.context_bytes)
    device = {**body.get("device", {}), "memory_bytes": capacity + replay.context_bytes}
    event = estimate(parse_request({**body, "device": device})).fit.out_of_memory
    snapshot = read_snapshot(raw)
    assert snapshot.failed_bytes == event.requested_bytes
    assert snapshot.line[-1] >= snapshot.allocated_bytes  # the most of the last part of its history
    found = match_snapshot(journal_of(replay, capacity + replay.context_bytes), snapshot)
    assert (found.other_bytes, found.missing_bytes) == (0, 0)
    assert found.same_bytes == sum(size * count for size, count in snapshot.blocks.items())
    assert (found.step, found.phase) == (min(event.step, 2), event.phase)
    assert sum(found.components.values()) == found.same_bytes


def test_blocks_that_the_run_does_not_have_are_listed():
    answer = estimate(parse_request(GPT2))
    replay = replay_of(answer)
    value = pickle.loads(written(replay, 15 << 30, 16 << 30))
    value["segments"].append(segment(123 << 20))
    found = match_snapshot(journal_of(replay), read_snapshot(pickle.dumps(value)))
    assert found.other_bytes == 123 << 20
    assert [(other.size, other.blocks, other.tensors) for other in found.others] == [(123 << 20, 1, 0)]


def test_a_written_snapshot_has_the_fields_that_pytorchs_viewer_reads():
    replay = replay_of(estimate(parse_request(GPT2)))
    value = pickle.loads(written(replay, 15 << 30, 16 << 30))
    for segment in value["segments"]:
        used = [block for block in segment["blocks"] if block["state"] != "inactive"]
        assert segment["total_size"] == sum(block["size"] for block in segment["blocks"])
        assert segment["allocated_size"] == segment["active_size"] == sum(block["size"] for block in used)
        assert all(block["frames"][0]["name"] for block in used)
    (trace,) = value["device_traces"]
    assert trace[-1]["action"] == "oom"
    assert {event["action"] for event in trace[:-1]} == {"alloc", "free_completed"}
