"""The files of checkpoints of several processes on the CPU have the predicted sizes."""

import json
import subprocess
import sys

import pytest

from calculator.run.request import parse_run
from calculator.run.run import whole_run
from tests.paths import ROOT
from validation.sharding.checkpoints import on_host

pytestmark = [pytest.mark.trace]

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 3000,
    "tie_word_embeddings": False,
}


GATHERS = {"zero_optimization": {"stage3_gather_16bit_weights_on_model_save": True}}


def body(sharding, method, count=2, **run):
    return {
        "model": {"config": LLAMA},
        "method": method,
        "training": {"sequence_length": 8, "autocast": "bfloat16"},
        "device": {"count": count, "sharding": sharding},
        "reserved": "rule",
        "run": run,
    }


def assert_equal_to_the_written_files(requests, count, folder):
    paths = []
    for number, request in enumerate(requests):
        paths.append(folder / f"{number}.json")
        paths[-1].write_text(json.dumps(request))
    command = [sys.executable, "-m", "validation", "checkpoints", *map(str, paths)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert found.returncode == 0, f"{found.stdout}\n{found.stderr[-2000:]}"
    assert found.stdout.count("predicted") == count


def test_fsdp_writes_files_of_the_predicted_sizes(tmp_path):
    sharded = body("fsdp", {"name": "lora", "r": 2}, count=3, state_dict_type="SHARDED_STATE_DICT")
    assert_equal_to_the_written_files([body("fsdp", {"name": "full"}), sharded], 5, tmp_path)


def test_deepspeed_writes_tensors_of_the_predicted_sizes(tmp_path):
    pytest.importorskip("deepspeed", reason="DeepSpeed is an optional extra")
    assert_equal_to_the_written_files(
        [body("zero1", {"name": "full"}), body("zero2", {"name": "lora"}, 3)], 6, tmp_path
    )


def test_zero_3_writes_partitions_and_gathered_weights_of_the_predicted_sizes(tmp_path):
    pytest.importorskip("deepspeed", reason="DeepSpeed is an optional extra")
    gathers = body("zero3", {"name": "full"}, 3)
    gathers["training"]["deepspeed"] = GATHERS
    requests = [body("zero3", {"name": "full"}), body("zero3", {"name": "lora"}), gathers]
    assert_equal_to_the_written_files(requests, 5, tmp_path)


@pytest.mark.parametrize(("sharding", "gathered"), [("fsdp", 3000 * 64 * 4), ("zero2", 0)])
def test_gathered_weights_count_on_the_host_if_the_host_is_the_gpu(sharding, gathered):
    request = body(sharding, {"name": "full"})
    answer = whole_run(parse_run(request))
    saved = next(phase for phase in answer.phases if phase.name == "checkpoint")
    assert on_host(answer, request["device"]) == saved.host_bytes + gathered
