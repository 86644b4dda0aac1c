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


def test_two_processes_agree_with_the_trace_to_the_byte(tmp_path):
    paths = []
    for name, request in REQUESTS.items():
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(request))
    command = [sys.executable, "-m", "validation", "processes", *map(str, paths)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert found.returncode == 0, f"{found.stdout}\n{found.stderr[-2000:]}"
    assert len(found.stdout.splitlines()) == len(REQUESTS) * 2 * 4
