"""A stub of the CUDA runtime, with which PyTorch's CUDA code runs without a GPU."""

import json
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest
import torch

from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.out_of_memory import DeviceMemory
from validation.__main__ import main
from validation.stub_gpu.allocator import Outcome, played
from validation.stub_gpu.request_stream import KINDS, Event, request_stream

IS_CUDA_BUILD = (Path(torch.__file__).parent / "lib" / "libc10_cuda.so").exists()
GIB = 1 << 30

needs_stub = pytest.mark.skipif(
    not IS_CUDA_BUILD or which("cc") is None, reason="needs a CUDA build of torch and a C compiler"
)


def reserved_without_limit(events, conf):
    device = DeviceMemory(capacity=80 * GIB, total=80 * GIB, context=0)
    return played(events, CachingAllocator(conf), device).most_reserved


@needs_stub
@pytest.mark.parametrize("command", [["allocator", "--count", "20"], ["measure", "--quick", "--match", "lora, 4096"]])
def test_pytorchs_cuda_code_on_the_stub_agrees_with_the_calculator(command, tmp_path):
    results = ["--results", str(tmp_path / "measured.json")] if command[0] == "measure" else []
    child = [sys.executable, "-m", "validation", *command, "--stub-gpu", "a100-sxm4-80gb", *results]
    completed = subprocess.run(child, capture_output=True, text=True, timeout=600, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr


@needs_stub
def test_a_trainer_on_the_stub_allocates_what_the_calculator_states(tmp_path):
    path = tmp_path / "measured.json"
    command = ["measure", "--stub-gpu", "a100-sxm4-80gb", "--only", "trainers", "--match", "trl-sft, llama, lora"]
    child = [sys.executable, "-m", "validation", *command, "--results", str(path)]
    subprocess.run(child, capture_output=True, text=True, timeout=600, check=True)
    (row,) = json.loads(path.read_text())["trainers"]
    assert row["measured"] == row["predicted"]


@needs_stub
@pytest.mark.parametrize(
    ("section", "match"),
    [
        ("sharded", "ddp on 2, llama, full"),
        ("sharded", "fsdp on 2, llama, lora"),
        ("sharded", "zero2 on 2, llama, lora"),
        ("sharded", "zero3 on 2, llama, full"),
    ],
)
def test_a_rank_of_several_on_the_stub_allocates_what_the_calculator_states(section, match, tmp_path):
    if match.startswith("zero"):
        pytest.importorskip("deepspeed")
    path = tmp_path / "measured.json"
    command = ["measure", "--stub-gpu", "a100-sxm4-80gb", "--only", section, "--match", match]
    child = [sys.executable, "-m", "validation", *command, "--results", str(path)]
    subprocess.run(child, capture_output=True, text=True, timeout=600, check=True)
    (row,) = json.loads(path.read_text())[section]
    assert row["measured"]["phases"] == row["predicted"]["phases"]
    assert row["measured"]["peak_reserved"] == pytest.approx(row["predicted"]["reserved_replay"], rel=0.02)


@needs_stub
def test_a_load_on_the_stub_and_its_steps_reserve_what_their_replay_does(tmp_path):
    path = tmp_path / "measured.json"
    command = ["measure", "--stub-gpu", "a100-sxm4-80gb", "--only", "loads", "served", "--match", "qwen3, lora"]
    child = [sys.executable, "-m", "validation", *command, "--results", str(path)]
    subprocess.run(child, capture_output=True, text=True, timeout=600, check=True)
    found = json.loads(path.read_text())
    assert [row["measured"] for row in found["loads"]] == [row["predicted"] for row in found["loads"]]
    (served,) = found["served"]
    assert served["measured"]["peak_reserved"] == served["predicted"]["reserved_replay"]


@pytest.mark.skipif(IS_CUDA_BUILD, reason="torch is a CUDA build")
@pytest.mark.parametrize("command", ["allocator", "measure"])
def test_a_stub_without_a_cuda_build_of_torch_is_refused(command, capsys):
    assert main([command, "--stub-gpu", "h100"]) == 2
    assert "--stub-gpu h100: torch is not a CUDA build for Linux: install one" in capsys.readouterr().err


def test_an_unknown_gpu_is_refused_with_where_the_names_are(capsys):
    assert main(["measure", "--stub-gpu", "h101"]) == 2
    assert "--stub-gpu h101: it is not in calculator/catalogue/gpus.json" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_streams_of_requests_are_reproducible_and_end_in_every_way(kind):
    streams = [request_stream(seed, kind, 80 * GIB, reserved_without_limit) for seed in range(12)]
    assert streams == [request_stream(seed, kind, 80 * GIB, reserved_without_limit) for seed in range(12)]
    device = [DeviceMemory(capacity=stream.capacity, total=80 * GIB, context=0) for stream in streams]
    outcomes = [
        played(stream.events, CachingAllocator(stream.conf, capacity=stream.capacity, total=80 * GIB), memory)
        for stream, memory in zip(streams, device, strict=True)
    ]
    assert {outcome.error is None for outcome in outcomes} == {True, False}
    assert {outcome.retries > 0 for outcome in outcomes} == {True, False}


def test_a_stream_ends_with_the_text_of_the_error():
    device = DeviceMemory(capacity=2 << 20, total=GIB, context=1 << 20)
    outcome = played((Event(0, 512), Event(1, 3 << 20)), CachingAllocator(capacity=2 << 20, total=GIB), device)
    assert isinstance(outcome, Outcome)
    assert outcome.reserved == (2 << 20,)
    assert outcome.error is not None
    assert outcome.error.startswith(
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 1024.00 MiB"
    )
    assert outcome.error.endswith("2.00 MiB is reserved by PyTorch but unallocated.")
