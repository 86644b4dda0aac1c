"""The map of what fits: every cell is the plan's own estimate at its batch and length."""

from dataclasses import replace
from itertools import pairwise

import pytest

from calculator.common.errors import PlanError
from calculator.devices import Verdict
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.estimation.sharded_request import parse_sharded_request
from calculator.limit_search import fit_map as limits_fit_map
from calculator.limit_search.fit_map import MAX_REPLAYED, doublings, fit_map

QLORA = {
    "model": "meta-llama/Llama-3.1-8B",
    "method": {"name": "qlora"},
    "training": {"gradient_checkpointing": True, "micro_batch_size": 2, "sequence_length": 3000},
    "device": {"gpu": "rtx-4090"},
}


def of_cell(cell, **changes):
    """The estimate of a cell's pair on its own."""
    sizes = {"micro_batch_size": cell.micro_batch_size, "sequence_length": cell.sequence_length}
    return estimate(parse_request({**QLORA, **changes, "training": {**QLORA["training"], **sizes}}))


def test_each_cell_is_the_plan_with_its_batch_and_length_by_the_rule():
    found = fit_map(parse_request({**QLORA, "reserved": "rule"}))
    assert found.own == (2, 3000)
    for row in found.rows[::3]:
        for cell in row[::3]:
            assert cell.estimate.fit == of_cell(cell, reserved="rule").fit


def test_the_plan_and_the_cells_near_the_limit_are_replayed():
    found = fit_map(parse_request(QLORA))
    cells = {(cell.micro_batch_size, cell.sequence_length): cell for row in found.rows for cell in row}
    replayed = {pair: cell for pair, cell in cells.items() if cell.estimate.reserved == "replay"}
    assert found.own in replayed
    assert len(replayed) <= MAX_REPLAYED + 1
    assert found.near == 0
    for cell in replayed.values():
        assert cell.estimate.fit == of_cell(cell).fit
    for pair in cells.keys() - replayed.keys():
        fit = cells[pair].estimate.fit
        assert fit.verdict is Verdict.DOES_NOT_FIT or fit.headroom_bytes >= fit.usable_bytes // 20


def test_the_rule_and_a_replay_give_the_same_verdict():
    found = fit_map(parse_request(QLORA))
    for row in found.rows[::2]:
        for cell in row[::2]:
            assert cell.estimate.fit.verdict is of_cell(cell).fit.verdict


def test_of_too_many_cells_near_the_limit_the_nearest_are_replayed(monkeypatch):
    whole = fit_map(parse_request(QLORA))
    monkeypatch.setattr(limits_fit_map, "MAX_REPLAYED", 1)
    found = fit_map(parse_request(QLORA))
    count = sum(cell.estimate.reserved == "replay" for row in whole.rows for cell in row)
    fewer = sum(cell.estimate.reserved == "replay" for row in found.rows for cell in row)
    assert fewer < count
    assert found.near >= count - fewer


def test_more_tokens_never_need_less_for_tensors():
    found = fit_map(parse_request(QLORA))
    for row in (*found.rows, *zip(*found.rows, strict=True)):
        peaks = [cell.estimate.memory.peak_allocated_bytes for cell in row]
        assert all(one <= two for one, two in pairwise(peaks))


def test_the_map_ends_at_the_models_context_and_has_the_default_length():
    found = fit_map(parse_request({"model": "gpt2", "method": {"name": "lora"}, "device": {"gpu": "rtx-4090"}}))
    assert found.own == (1, 1024)
    assert found.sequence_lengths[-1] == 1024


def test_a_refused_pair_has_its_reason():
    prompt = {"name": "prompt", "num_virtual_tokens": 100}
    body = {"model": "gpt2", "method": prompt, "training": {"sequence_length": 900}, "device": {"gpu": "rtx-4090"}}
    found = fit_map(parse_request(body))
    assert all(cell.estimate for row in found.rows for cell in row)
    assert found.sequence_lengths[-1] + 100 <= 1024


@pytest.mark.parametrize(
    ("value", "least", "most", "expected"),
    [
        (2048, 2, 1 << 20, (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)),
        (1, 1, 100, (1, 2, 4, 8, 16, 32, 64)),
        (3, 1, 6, (3, 6)),
        (4, 2, 4, (2, 4)),
    ],
)
def test_values_are_halves_and_doubles_of_the_requests(value, least, most, expected):
    assert doublings(value, least, most, 8) == expected


def test_a_map_without_a_gpu_is_refused():
    with pytest.raises(PlanError) as error:
        fit_map(parse_request({**QLORA, "device": {}}))
    assert [problem.loc for problem in error.value.problems] == ["device"]


def test_a_four_bit_model_whose_load_decides_is_replayed_if_the_rule_may_be_too_low():
    body = {
        "model": "Qwen/Qwen3-0.6B",
        "method": {"name": "qlora", "quant_storage": "bfloat16"},
        "training": {"gradient_checkpointing": True, "micro_batch_size": 1, "sequence_length": 32},
        "device": {"sharding": "fsdp", "count": 4, "memory_bytes": 2_370_000_000},
    }
    request = parse_sharded_request(body).request
    found = fit_map(request)
    shorter = replace(request, training=replace(request.training, sequence_length=16))
    ruled = estimate(replace(shorter, reserved="rule")).fit
    assert ruled.verdict is Verdict.FITS
    assert ruled.headroom_bytes > ruled.usable_bytes // 20
    assert estimate(shorter).memory.peak_reserved_bytes == estimate(request).memory.peak_reserved_bytes
    assert found.near == 0
    cells = [cell for row in found.rows for cell in row]
    assert all(cell.estimate.fit.verdict is not Verdict.FITS for cell in cells)
    assert {cell.estimate.fit.verdict for cell in cells if cell.estimate.reserved == "rule"} == {Verdict.DOES_NOT_FIT}
