"""The exported scripts of models that read images train on several GPUs, and are read back with their files."""

import re
import subprocess
import sys

import pytest

from app.interop.exports import export
from app.interop.imports import read
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from tests.app.interop.exports.scripts import LOW_RANK, check_with_ruff
from tests.paths import ROOT

LORA = {"name": "lora", **LOW_RANK}
IMAGES = {"images_per_sequence": 1, "image_height": 60, "image_width": 40}
LLAVA, SMOLVLM, QWEN = "llava-hf/llava-1.5-7b-hf", "HuggingFaceTB/SmolVLM-256M-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct"


def body(model, trainer, sharding, method=LORA, **training):
    settings = {"trainer": trainer, "sequence_length": 640, "micro_batch_size": 2, "images": IMAGES, **training}
    if sharding.startswith("zero"):
        settings["autocast"] = "bfloat16"
    device = {"count": 1 if sharding == "none" else 2, "sharding": sharding}
    return {"model": model, "method": method, "training": settings, "reserved": "rule", "device": device}


def written(request, folder):
    """The script and its files in a folder."""
    exported = export(parse_request(request), "peft")
    for name, content in [
        (exported.filename, exported.content),
        *((file.filename, file.content) for file in exported.additional_files),
    ]:
        (folder / name).write_text(content)
    return exported


def trained(folder, *options):
    """Return what two processes print that run the script of a folder."""
    command = [sys.executable, "tests/app/interop/exports/two_processes.py", str(folder), "--steps", "2", *options]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert sorted(re.findall(r"step (\d): loss \d+\.\d+", ran.stdout)) == ["1", "2"]


@pytest.mark.trace
def test_two_processes_train_with_the_script_of_ddp(small_llava, tmp_path):
    written(body(LLAVA, "trl-dpo", "ddp", ddp={"find_unused_parameters": True}), tmp_path)
    saved = tmp_path / "saved"
    trained(tmp_path, "--model", str(small_llava), "--output", str(saved))
    assert (saved / "adapter_model.safetensors").exists()


@pytest.mark.trace
def test_two_processes_train_with_the_script_of_fsdp(small_idefics3, tmp_path):
    written(body(SMOLVLM, "trl-sft", "fsdp", autocast="bfloat16", sequence_length=1024), tmp_path)
    trained(tmp_path, "--model", str(small_idefics3), "--output", str(tmp_path / "saved"))


@pytest.mark.parametrize("trainer", ["transformers", "trl-sft", "trl-dpo", "trl-kto"])
@pytest.mark.parametrize("sharding", ["none", "ddp", "fsdp", "zero2", "zero3"])
def test_a_script_and_its_files_are_read_as_the_request_that_they_were_exported_from(trainer, sharding, tmp_path):
    training = {"gradient_accumulation_steps": 3, "max_grad_norm": 0.5, "padding": trainer != "trl-dpo"}
    request = body(QWEN, trainer, sharding, **training)
    if sharding != "none":
        request["device"] |= {"count": 8, "nodes": 2}
    exported = written(request, tmp_path)
    found = read(exported.content).request
    for file in exported.additional_files:
        found = read(file.content, None, None, found).request
    again, planned = parse_request({**found, "reserved": "rule"}), parse_request(request)
    assert (again.method, again.device) == (planned.method, planned.device)
    assert again.training.images == planned.training.images
    assert again.training.padding == planned.training.padding
    assert estimate(again).memory.peak_allocated_bytes == estimate(planned).memory.peak_allocated_bytes


def test_scripts_are_as_formatters_and_linters_leave_them(tmp_path):
    for number, sharding in enumerate(("none", "ddp", "fsdp", "zero2", "zero3")):
        for trainer in ("transformers", "trl-sft", "trl-dpo", "trl-kto"):
            for method in (LORA, {"name": "full"}):
                exported = export(parse_request(body(QWEN, trainer, sharding, method)), "peft")
                (tmp_path / f"{trainer}_{number}_{method['name']}.py").write_text(exported.content)
    check_with_ruff(tmp_path)
