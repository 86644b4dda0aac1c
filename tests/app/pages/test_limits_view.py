"""The limits page, its JSON version and the API show the same figures."""

import re
from html import unescape

import pytest


def test_the_map_on_the_page_equals_the_json(client):
    text = client.get("/limits").text
    answer = client.get("/limits.json").json()["map"]
    shown = re.findall(r'<a class="cell" data-verdict="(\w+)" href="/(\?[^"]*)?"', text)
    cells = [cell for row in answer["rows"] for cell in row]
    assert [verdict for verdict, _ in shown] == [cell["verdict"] for cell in cells]
    assert text.count('aria-current="true"') == 1


@pytest.mark.parametrize("reserved", ["rule", "replay"])
def test_a_cell_of_the_map_equals_the_verdict_of_its_plan(client, reserved):
    rows = client.get("/limits.json").json()["map"]["rows"]
    cell = next(cell for row in rows for cell in row if cell["reserved"] == reserved)
    sizes = f"micro_batch_size={cell['micro_batch_size']}&sequence_length={cell['sequence_length']}"
    answer = client.get(f"/estimate.json?{sizes}&reserved={reserved}").json()
    assert (answer["memory"]["required_bytes"], answer["fit"]["headroom_bytes"]) == (
        cell["required_bytes"],
        cell["headroom_bytes"],
    )


def test_the_page_marks_each_cell_whose_reserved_memory_is_by_the_rule(client):
    rows = client.get("/limits.json").json()["map"]["rows"]
    text = client.get("/limits").text
    cells = re.findall(r'<a class="cell".*?</a>', text, re.DOTALL)
    assert ["≈" in cell for cell in cells] == [cell["reserved"] == "rule" for row in rows for cell in row]
    ruled = client.get("/limits?reserved=rule").text
    assert "≈" not in ruled[ruled.index('<table class="map">') :]


def test_the_page_names_the_run(client):
    several = client.get("/limits?model=gpt2&method=lora&gpu=rtx-4060&count=2&sharding=ddp&reserved=rule").text
    assert "The run: LoRA on gpt2, micro-batch 1, 2,048 tokens, on 2 × GeForce RTX 4060." in several
    assert "on GeForce RTX 4090." in client.get("/limits?reserved=rule").text


def test_by_the_rule_no_limit_and_no_cell_is_replayed(client):
    answer = client.get("/limits.json?reserved=rule").json()
    assert {cell["reserved"] for row in answer["map"]["rows"] for cell in row} == {"rule"}
    assert {limit["estimate"]["reserved"] for limit in answer["limits"]} == {"rule"}
    ruled, replayed = (client.get(f"/limits?reserved={reserved}").text for reserved in ("rule", "replay"))
    assert ruled.count("Reserved memory is computed by the rule.") == 2
    assert "near the GPU's limit are replayed" in unescape(replayed)


def test_a_refused_pair_is_reported_with_its_reason(client):
    address = "?model=gpt2&method=prompt&num_virtual_tokens=1000&sequence_length=24"
    rows = client.get(f"/limits.json{address}").json()["map"]["rows"]
    assert {cell["verdict"] for row in rows for cell in row} <= {"fits", "tight", "does_not_fit", None}


def test_the_plan_page_has_a_placeholder_for_the_limits(client):
    assert '<div class="limits" data-limits="/limits?r=32">' in client.get("/?r=32").text
    assert "data-limits" not in client.get("/?gpu=").text
    assert "data-limits" not in client.get("/?accounting=textbook").text


def test_audio_has_limits_of_its_other_settings(client):
    answer = client.get(
        "/limits.json?model=openai/whisper-tiny&task=seq_2_seq_lm&method=lora&target_modules=q_proj&reserved=rule"
    ).json()
    assert [limit["solve_for"] for limit in answer["limits"]] == ["r", "micro_batch_size"]
    assert answer["map"]["sequence_lengths"] == [1500]
    assert {cell["verdict"] for cell in answer["map"]["rows"][0]} <= {"fits", "tight", "does_not_fit"}
