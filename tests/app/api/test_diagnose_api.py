"""`POST /api/v1/diagnose` and the command: the same figures, and refusals that name the field."""

import json
from base64 import b64encode

import pytest

from app.__main__ import main
from calculator.diagnosis.diagnosis import replay_of
from calculator.diagnosis.snapshot import read_snapshot
from calculator.diagnosis.written_snapshot import written
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

MESSAGE = (
    "RuntimeError: CUDA out of memory. Tried to allocate 384.00 MiB (GPU 0; 15.90 GiB total capacity; 14.75 GiB already"
    " allocated; 225.81 MiB free; 14.81 GiB reserved in total by PyTorch)"
)
RUN = {
    "model": "openai-community/gpt2",
    "method": {"name": "full"},
    "training": {"micro_batch_size": 8, "sequence_length": 1024, "dtype": "float32", "attention": "eager"},
}
OPTIONS = "--model openai-community/gpt2 --method full --micro_batch_size 8 --sequence_length 1024 --dtype float32"
YAML = """\
base_model: openai-community/gpt2
sequence_len: 1024
micro_batch_size: 8
optimizer: adamw_torch
learning_rate: 2e-4
flash_attention: false
eager_attention: true
"""


def post(client, **body):
    return client.post("/api/v1/diagnose", json=body)


def test_the_command_prints_the_answer_of_the_api(client, tmp_path, capsys):
    (tmp_path / "log").write_text(f"0%\n{MESSAGE}\n")
    arguments = ["diagnose", str(tmp_path / "log"), *OPTIONS.split(), "--attention", "eager"]
    assert main([*arguments, "--json"]) == 0
    answer = post(client, message=MESSAGE, request=RUN).json()
    assert json.loads(capsys.readouterr().out) == answer
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(sentence in printed for sentence in answer["sentences"])
    assert all(match["tensor"] in printed for match in answer["matches"][:8])


def test_a_file_describes_the_run_and_the_request_overrides_its_settings(client, tmp_path, capsys):
    answer = post(client, message=MESSAGE, content=YAML).json()
    assert answer["request"]["training"]["micro_batch_size"] == 8
    changed = post(client, message=MESSAGE, content=YAML, request={"training": {"micro_batch_size": 1}}).json()
    assert changed["request"]["training"] == answer["request"]["training"] | {"micro_batch_size": 1}
    (tmp_path / "log").write_text(MESSAGE)
    (tmp_path / "axolotl.yaml").write_text(YAML)
    status = main(["diagnose", str(tmp_path / "log"), "--file", str(tmp_path / "axolotl.yaml"), "--json"])
    assert json.loads(capsys.readouterr().out) == answer
    assert status == int(answer["found"] == "none")


EVALUATION = {"eval_strategy": "epoch", "compute_metrics": True, "eval_samples": 200}
IN_EVALUATION = (
    'File "trainer.py", in evaluation_loop\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 6.14 GiB. GPU'
    " 0 has a total capacity of 15.77 GiB of which 1.00 GiB is free. Of the allocated memory 13.20 GiB is allocated by"
    " PyTorch, and 100.00 MiB is reserved by PyTorch but unallocated."
)


def test_an_error_of_the_evaluation_names_its_batch_and_the_changes_of_the_run(client, tmp_path, capsys):
    answer = post(client, message=IN_EVALUATION, request={**RUN, "run": EVALUATION}).json()
    (first, *_), changes = answer["in_phases"], answer["changes"]
    assert (first["phase"], first["tensor"], first["batch"]) == ("evaluation", "gathered logits with the batch", 4)
    assert "in the evaluation, in batch 4" in answer["sentences"][0]
    assert {"run.prediction_loss_only": True} in [change["changes"] for change in changes]
    assert client.post("/api/v1/run", json=changes[0]["request"]).status_code == 200
    (tmp_path / "log").write_text(IN_EVALUATION)
    options = "--attention eager --eval_strategy epoch --compute_metrics --eval_samples 200"
    assert main(["diagnose", str(tmp_path / "log"), *OPTIONS.split(), *options.split(), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == answer
    without = post(client, message=IN_EVALUATION, request=RUN).json()
    assert (without["in_phases"], without["found"]) == ([], "none")
    assert any("run.eval_strategy" in sentence for sentence in without["sentences"])
    wrong = post(client, message=IN_EVALUATION, request={**RUN, "run": {"eval_samples": 0}})
    assert [error["loc"] for error in wrong.json()["errors"]] == ["request.run.eval_samples"]


def test_the_request_of_a_change_can_be_estimated(client):
    answer = post(client, message=MESSAGE, request=RUN).json()
    change = answer["changes"][0]
    assert change["ends"] is True
    estimate = client.post("/api/v1/estimate", json=change["request"])
    assert estimate.status_code == 200


def test_a_size_that_no_tensor_has_is_reported_with_status_1(client, tmp_path, capsys):
    text = MESSAGE.replace("384.00", "391.00")
    answer = post(client, message=text, request=RUN).json()
    assert (answer["found"], answer["matches"], answer["alive"]) == ("none", [], [])
    assert answer["sentences"][0].startswith("No tensor of this run has a segment of 391.00 MiB")
    (tmp_path / "log").write_text(text)
    assert main(["diagnose", str(tmp_path / "log"), *OPTIONS.split()]) == 1
    assert "No tensor of this run" in capsys.readouterr().out


def run_snapshot():
    """The snapshot of RUN's replay, which ends on 15 GiB."""
    replay = replay_of(estimate(parse_request(RUN)))
    return written(replay, 15 << 30, 16 << 30)


def test_a_snapshot_needs_no_message_and_its_blocks_are_the_runs_tensors(client, tmp_path, capsys):
    snapshot = run_snapshot()
    answer = post(client, snapshot=b64encode(snapshot).decode(), request=RUN).json()
    found = answer["snapshot"]
    assert (found["other_bytes"], found["missing_bytes"]) == (0, 0)
    assert found["timeline"][-1] == found["allocated_bytes"] == answer["message"]["allocated_bytes"]
    assert answer["matches"][0]["same_allocated"]
    (tmp_path / "s.pickle").write_bytes(snapshot)
    command = ["diagnose", "--snapshot", str(tmp_path / "s.pickle"), *OPTIONS.split(), "--attention", "eager"]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == answer


def test_the_command_writes_the_predicted_snapshot(tmp_path, capsys):
    (tmp_path / "log").write_text(MESSAGE)
    command = ["diagnose", str(tmp_path / "log"), *OPTIONS.split(), "--attention", "eager"]
    assert main([*command, "--write_snapshot", str(tmp_path / "s.pickle")]) == 0
    assert read_snapshot((tmp_path / "s.pickle").read_bytes()).failed_bytes == 384 << 20
    assert main([*command, "--write_snapshot", str(tmp_path / "no" / "s.pickle")]) == 2
    assert "--write_snapshot" in capsys.readouterr().err


HOSTILE = b64encode(b"cos\nsystem\n(S'true'\ntR.").decode()


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({"message": "CUDA内存不足", "request": RUN}, "message"),
        ({"message": MESSAGE[:120], "request": RUN}, "message"),
        ({"message": 7, "request": RUN}, "message"),
        ({"request": RUN}, "message"),
        ({"message": MESSAGE}, "request"),
        ({"snapshot": HOSTILE, "request": RUN}, "snapshot"),
        ({"snapshot": "no base64!", "request": RUN}, "snapshot"),
        ({"snapshot": 5, "message": MESSAGE, "request": RUN}, "snapshot"),
        ({"snapshot": "gAR9lC4=", "request": RUN}, "snapshot"),
        ({"message": MESSAGE, "request": []}, "request"),
        (
            {"message": MESSAGE, "request": {**RUN, "training": {"sequence_length": 0}}},
            "request.training.sequence_length",
        ),
        ({"message": MESSAGE, "request": {**RUN, "accounting": "textbook"}}, "accounting"),
        ({"message": MESSAGE, "content": 3}, "content"),
        ({"message": MESSAGE, "content": YAML, "format": "toml"}, "format"),
        ({"message": MESSAGE, "request": RUN, "grid": {}}, "grid"),
    ],
)
def test_a_wrong_body_is_a_422_that_names_the_field(client, body, loc):
    response = client.post("/api/v1/diagnose", json=body)
    assert (response.status_code, [error["loc"] for error in response.json()["errors"]]) == (422, [loc])
