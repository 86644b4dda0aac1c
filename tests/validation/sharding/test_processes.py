"""Two gloo processes on the CPU allocate what the trace on the fake process group says."""

import json
import subprocess
import sys

import pytest

from tests.paths import ROOT
from tests.validation.sharding.test_sharded_trace import LORA, body

pytestmark = [pytest.mark.trace]

REQUESTS = {
    "ddp": body("ddp", gradient_accumulation_steps=2),
    "ddp-views": body("ddp", LORA, ddp={"gradient_as_bucket_view": True}),
    "fsdp": body("fsdp", dtype="float32", autocast="bfloat16", gradient_accumulation_steps=2),
    "fsdp-lora": body("fsdp", LORA, gradient_checkpointing=True, fsdp_config={"reshard_after_forward": False}),
}

ZERO = {
    stage: body(
        stage,
        LORA if stage == "zero2" else None,
        attention="eager",
        autocast="bfloat16",
        deepspeed={"zero_optimization": {"reduce_bucket_size": 20_000}},
    )
    for stage in ("zero1", "zero2", "zero3")
}


def assert_equal_to_the_traces(requests, folder):
    paths = []
    for name, request in requests.items():
        paths.append(folder / f"{name}.json")
        paths[-1].write_text(json.dumps(request))
    command = [sys.executable, "-m", "validation", "processes", *map(str, paths)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert found.returncode == 0, f"{found.stdout}\n{found.stderr[-2000:]}"
    lines = [line for line in found.stdout.splitlines() if ", rank " in line]
    assert len(lines) == len(requests) * 2 * 4


def test_two_processes_agree_with_the_trace_to_the_byte(tmp_path):
    assert_equal_to_the_traces(REQUESTS, tmp_path)


def test_two_processes_of_deepspeed_agree_with_the_trace_to_the_byte(tmp_path):
    pytest.importorskip("deepspeed", reason="DeepSpeed is an optional extra")
    assert_equal_to_the_traces(ZERO, tmp_path)
