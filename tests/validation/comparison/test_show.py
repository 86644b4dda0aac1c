import io
import json

import pytest

from tests.paths import CASE_FILES
from tests.tiny_models import LLAMA
from validation.__main__ import main
from validation.comparison.show import peak_rank

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

REQUEST = {
    "model": {"config": LLAMA},
    "method": {"name": "lora", "target_modules": ["q_proj"]},
    "training": {"sequence_length": 48},
}


@pytest.fixture
def output(tmp_path, capsys):
    """A function that runs the command and returns its output."""

    def run(*arguments):
        path = tmp_path / "request.json"
        path.write_text(json.dumps(REQUEST))
        assert main(["trace", str(path), *arguments]) == 0
        return capsys.readouterr().out

    return run


def test_each_phase_shows_its_peak_and_the_components_at_it(output):
    shown = output()
    for text in ("forward: ", "backward: ", "optimizer_step: ", "base_weights", "activations", "optimizer_states"):
        assert text in shown
    assert "model.layers.0" not in shown.split("at model")[0]


def test_the_largest_storages_are_printed_with_name_shape_and_dtype(output):
    assert "model.embed_tokens.weight 300×64 bfloat16 base_weights" in output("--rows", "3")


def test_the_json_is_the_complete_trace(output):
    document = json.loads(output("--json"))
    assert document["peak_allocated_bytes"] == max(document["phases"].values())
    assert len(document["storages"]) == sum(event >= 0 for event in document["events"])
    assert document["emulations"]


def test_a_request_may_come_from_standard_input(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(REQUEST)))
    assert main(["trace", "-"]) == 0
    assert "peak" in capsys.readouterr().out


def test_a_refused_request_prints_its_reason(tmp_path, capsys):
    path = tmp_path / "request.json"
    path.write_text(json.dumps({**REQUEST, "training": {"attention": "flash_attention_2", "padding": True}}))
    assert main(["trace", str(path)]) == 2
    assert "training.attention" in capsys.readouterr().err


def test_a_comparison_is_with_the_rank_that_the_answer_is_about():
    cases = [json.loads(line) for line in (CASE_FILES / "sharded.jsonl").read_text().splitlines()]
    ranks = {case["id"]: case["expected"]["rank"] for case in cases if "rank" in case["expected"]}
    assert set(ranks.values()) == {0, 1}
    assert ranks == {case["id"]: peak_rank(case["request"]) for case in cases if case["id"] in ranks}


def test_a_refused_request_and_one_on_one_gpu_have_rank_0():
    assert peak_rank({"model": {"config": {}}, "method": {"name": "full"}}) == 0
    assert peak_rank({"model": "meta-llama/Llama-3.2-1B", "method": {"name": "full"}}) == 0
