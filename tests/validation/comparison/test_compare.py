import json

import pytest

from calculator.estimation.estimate import training_step
from calculator.estimation.request import parse_request
from tests.tiny_models import LLAMA
from validation.__main__ import main
from validation.comparison.compare import estimate

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

REQUEST = {
    "model": {"config": LLAMA},
    "method": {"name": "lora", "target_modules": "all-linear"},
    "training": {"sequence_length": 48},
}


@pytest.fixture
def request_file(tmp_path):
    path = tmp_path / "request.json"
    path.write_text(json.dumps(REQUEST))
    return str(path)


def test_every_row_of_a_small_plan_has_a_counterpart(request_file, capsys):
    assert main(["compare", request_file]) == 0
    assert capsys.readouterr().out.count("every row has a counterpart") == 3


def test_the_comparison_as_json_has_both_sides_of_every_phase(request_file, capsys):
    assert main(["compare", request_file, "--json"]) == 0
    phases = json.loads(capsys.readouterr().out)["phases"]
    assert list(phases) == ["forward", "backward", "optimizer_step"]
    for phase in phases.values():
        assert phase["bytes"]["estimated"] == phase["bytes"]["traced"]
        assert phase["differences"] == []


@pytest.mark.parametrize("sharding", ["fsdp", "ddp"])
def test_a_sharded_request_is_compared_as_it_is_sharded(sharding):
    request = parse_request({**REQUEST, "device": {"count": 2, "sharding": sharding}})
    phases = estimate(request).phases
    assert phases == {peak.phase: peak.bytes for peak in training_step(request).peaks()}
    assert phases != estimate(parse_request(REQUEST)).phases
