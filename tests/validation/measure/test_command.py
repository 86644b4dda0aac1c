import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jsonschema import Draft202012Validator

import validation.measure
from calculator.estimation.sharded_request import parse_sharded_request
from calculator.inference.request import parse_inference
from validation.__main__ import main
from validation.measure.agenda import SECTIONS, agenda, random_agenda
from validation.measure.environment import card_named, environment, machine
from validation.measure.load_cases import load_cases
from validation.measure.report import (
    history_line,
    load_line,
    served_line,
    sharded_line,
    step_line,
    summary,
    trainer_line,
    verdict_line,
)
from validation.measure.results import AnotherEnvironmentError, Results
from validation.measure.served_cases import served_cases
from validation.measure.sharded_cases import sharded_cases

SCHEMA = json.loads((Path(validation.measure.__file__).parent / "schema.json").read_text())
CPU, CUDA = torch.device("cpu"), torch.device("cuda")

LOADED = """
import sys
import validation.measure.agenda, validation.measure.command
print(*sorted({"app", "fastapi", "plotly", "pydantic", "starlette", "uvicorn"} & sys.modules.keys()))
"""

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_run_on_the_cpu_writes_a_valid_file_and_another_run_resumes_from_it(tmp_path, capsys):
    path = tmp_path / "measured.json"
    command = ["measure", "--device", "cpu", "--quick", "--results", str(path), "--match"]
    assert main([*command, "prompt"]) == 0
    first = json.loads(path.read_text())
    Draft202012Validator(SCHEMA).validate(first)
    assert [row["name"] for row in first["layers"]] == ["prompt, 4096"]
    assert [row["name"] for row in first["steps"]] == ["two small layers, prompt, 1 × 32"]
    assert "equal in 1 of 1" in capsys.readouterr().out
    assert main([*command, "prompt", "--budget", "0"]) == 0
    assert json.loads(path.read_text()) == first


def test_a_run_whose_time_is_up_prints_how_to_continue(tmp_path, capsys):
    path = tmp_path / "measured.json"
    assert main(["measure", "--device", "cpu", "--budget", "0", "--only", "layers", "--results", str(path)]) == 0
    assert "cases are left when the time is up; run the same command to continue" in capsys.readouterr().out
    Draft202012Validator(SCHEMA).validate(json.loads(path.read_text()))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_wrong_usage(capsys):
    assert main(["measure", "--device", "cuda"]) == 2
    assert "sees no CUDA device; use --device cpu" in capsys.readouterr().err


def test_a_file_of_another_machine_is_not_resumed(tmp_path):
    here = environment(CPU)
    path = tmp_path / "measured.json"
    Results(path, here, SECTIONS).write()
    Results(path, {**here, "date": "2030-01-01T00:00:00+00:00"}, SECTIONS)
    with pytest.raises(AnotherEnvironmentError, match=r"device differ.*name another file"):
        Results(path, {**here, "device": "NVIDIA L4"}, SECTIONS)


def test_an_agenda_for_a_gpu_starts_with_every_method_and_verdicts():
    quick = agenda(CUDA, {"device": {"gpu": "h100-sxm5-80gb"}}, quick=True)
    whole = agenda(CUDA, {"device": {"gpu": "h100-sxm5-80gb"}}, quick=False)
    assert [entry.name for entry in whole[: len(quick)]] == [entry.name for entry in quick]
    assert {entry.section for entry in quick} == {*SECTIONS} - {"trainers", "sharded", "loads", "served"}
    assert {entry.section for entry in whole} == {*SECTIONS}
    assert len({(entry.section, entry.name) for entry in whole}) == len(whole)


def test_an_agenda_for_the_cpu_has_every_layer_and_no_verdict():
    layers = [entry for entry in agenda(CUDA, {}, quick=False) if entry.section == "layers"]
    here = agenda(CPU, {}, quick=False)
    assert [entry.name for entry in here if entry.section == "layers"] == [entry.name for entry in layers]
    assert {entry.section for entry in here} == {"layers", "steps"}


@pytest.mark.parametrize(
    ("name", "mib", "major", "card"),
    [
        ("NVIDIA H100 80GB HBM3", 81_089, 9, "h100-sxm5-80gb"),
        ("NVIDIA GeForce RTX 4090", 24_081, 8, "rtx-4090"),
        ("NVIDIA A100-SXM4-80GB", 81_153, 8, "a100-sxm4-80gb"),
        ("NVIDIA H100 MIG 1g.10gb", 9_984, 9, "h100-pcie-80gb"),
    ],
)
def test_a_device_is_found_in_the_catalogue_by_its_name_or_else_by_its_generation(name, mib, major, card):
    assert card_named(name, mib << 20, major).id == card


@pytest.mark.parametrize(("torch", "stack"), [("2.9.1+cu128", {"torch": "2.9.1"}), ("2.99.0.dev20270101", {})])
def test_requests_name_the_gpu_and_the_release_of_pytorch_if_the_calculator_knows_it(torch, stack):
    found = {"card": "l4", "versions": {"torch": torch}}
    assert machine(found) == {"device": {"gpu": "l4", "type": "cuda"}, "stack": stack}


def test_the_report_has_peaks_out_of_memory_and_wrong_verdicts():
    predicted = {"peak_allocated": 990, "reserved_replay": 1980, "load": 500, "end": 600, "phases": {"forward": 990}}
    measured = {**predicted, "peak_allocated": 1000, "peak_reserved": 2000, "seconds_per_step": 0.25}
    row = {
        "name": "a",
        "predicted": predicted,
        "measured": {**measured, "phases": {"forward": {"peak_allocated": 1000}}},
    }
    assert step_line(row).split(maxsplit=1) == ["a", "allocated: peak -1.000%; reserved: -1.00%; 0.250 s a step"]
    row["measured"]["phases"]["forward"]["peak_allocated"] = 990
    assert "allocated: equal to the byte" in step_line(row)
    assert "out of memory in backward" in step_line(
        {"name": "b", "predicted": predicted, "measured": None, "out_of_memory": {"phase": "backward"}}
    )
    runs = [
        {"should_run": True, "ran": True, "retries": {"predicted": 2, "measured": 3}},
        {"should_run": False, "ran": True, "retries": {"predicted": None, "measured": 5}},
    ]
    line = verdict_line({"name": "c", "runs": runs})
    assert "NOT as predicted" in line
    assert line.endswith("retries: 3 of 2")
    assert "as predicted above and below" in verdict_line({"name": "c", "runs": runs[:1]})


def test_the_report_has_the_errors_of_a_history():
    row = {
        "name": "a",
        "predicted": {"reserved": [90, 220]},
        "measured": {"reserved": [100, 200]},
        "counts": {"retries": 4, "ooms": 0},
    }
    assert history_line(row).split(maxsplit=1) == ["a", "reserved: most +10.00%, mean +3.33%; 4 retries"]
    ended = {"name": "b", "measured": None, "out_of_memory": {"phase": "forward"}}
    assert "out of memory in forward" in history_line(ended)


def test_the_report_has_the_differences_of_a_trainers_step(tmp_path):
    peaks = {"forward": 1000, "backward": 2000, "optimizer_step": 500}
    row = {"name": "a", "request": {}, "predicted": peaks, "measured": peaks}
    off = row | {"name": "b", "measured": peaks | {"backward": 2512}}
    assert trainer_line(row).split(maxsplit=1) == ["a", "allocated: equal to the byte"]
    assert trainer_line(off).split(maxsplit=1) == ["b", "backward +512"]
    path = tmp_path / "measured.json"
    results = Results(path, environment(CPU), SECTIONS)
    results.add("trainers", row)
    results.add("trainers", off)
    Draft202012Validator(SCHEMA).validate(json.loads(path.read_text()))
    assert [*summary(results)][-1].startswith("trainers: allocated bytes equal in 1 of 2, median |error| 10.191%")


def test_a_file_without_a_section_is_continued(tmp_path):
    path, here = tmp_path / "measured.json", environment(CPU)
    path.write_text(json.dumps({"format": 1, "environment": here, "layers": [{"name": "a"}]}))
    results = Results(path, here, SECTIONS)
    assert ("layers", "a") in results
    assert results.rows("trainers") == []


def test_the_summary_of_an_empty_file_claims_nothing(tmp_path):
    assert not [*summary(Results(tmp_path / "none.json", environment(CPU), SECTIONS))]


def test_measuring_loads_nothing_of_the_web_stack():
    listing = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, timeout=120, check=True)
    assert listing.stdout.split() == []


def test_the_report_has_the_differences_of_a_sharded_step(tmp_path):
    predicted = {"phases": {"forward": 1000, "backward": 2000}, "reserved_replay": 4040}
    measured = {"phases": {"forward": 1000, "backward": 2000}, "peak_reserved": 4000}
    row = {"name": "a", "predicted": predicted, "measured": measured}
    off = {**row, "name": "b", "measured": {**measured, "phases": {"forward": 1512, "backward": 2000}}}
    assert sharded_line(row).split(maxsplit=1) == ["a", "allocated: equal to the byte; reserved: +1.00%"]
    assert sharded_line(off).split(maxsplit=1) == ["b", "allocated: forward +512; reserved: +1.00%"]
    failed = {"name": "c", "measured": None, "out_of_memory": {"phase": "load"}}
    assert sharded_line(failed).endswith("out of memory in load")
    results = Results(tmp_path / "measured.json", environment(CPU), SECTIONS)
    for found in (row, off, failed):
        results.add("sharded", found)
    assert [*summary(results)][-1].startswith(
        "sharded: allocated bytes equal in 1 of 2; reserved: median |error| 1.000%"
    )


def test_the_report_has_the_stages_of_a_load_and_the_passes_of_generate(tmp_path):
    load = {"name": "a", "predicted": [100, 303, 303], "measured": [100, 300, 300]}
    predicted = {"passes": {"prefill": 1000}, "reserved_replay": 2000}
    served = {"name": "b", "predicted": predicted, "measured": {"passes": {"prefill": 1024}, "peak_reserved": 2000}}
    assert load_line(load).split(maxsplit=1) == ["a", "reserved: load +0.00%, steps +1.00%, +1.00%"]
    assert served_line(served).split(maxsplit=1) == ["b", "allocated: prefill +24; reserved: +0.00%"]
    results = Results(tmp_path / "measured.json", environment(CPU), SECTIONS)
    results.add("loads", load)
    results.add("served", served)
    *_, of_loads, of_served = summary(results)
    assert of_loads.startswith("loads: reserved bytes equal in 1 of 3 stages, median |error| 1.000%")
    assert of_served.startswith("served: allocated bytes equal in 0 of 1; reserved: median |error| 0.000%")


@pytest.mark.parametrize("cases", [sharded_cases, load_cases, served_cases])
def test_requests_of_the_cases_are_for_cuda_and_name_the_machine(cases):
    found = [*cases({"device": {"gpu": "l4"}, "stack": {"torch": "2.13.0"}})]
    assert len({case.name for case in found}) == len(found)
    for case in found:
        assert (case.body["device"]["gpu"], case.body["device"]["type"]) == ("l4", "cuda")
        assert case.body["stack"] == {"torch": "2.13.0"}
        (parse_inference if "serving" in case.body else parse_sharded_request)(case.body)


def test_random_steps_of_a_seed_are_reproducible_and_are_what_the_calculator_models():
    found = {"device": "NVIDIA A100-SXM4-80GB", "card": "a100-sxm4-80gb", "versions": {"torch": "2.14.1+cu130"}}
    drawn = [[entry.name for entry in random_agenda(5, 12, CUDA, machine(found))] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert 6 <= len(drawn[0]) <= 12
    assert all(name.startswith("seed 5, ") for name in drawn[0])
    left_out = random_agenda(9201, 3, CUDA, machine(found))  # the method of one has no default target of its family
    assert [entry.name.partition(":")[0] for entry in left_out] == ["seed 9201, 1"]
