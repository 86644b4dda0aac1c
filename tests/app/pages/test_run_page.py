"""The page of a whole run: its answer, its form, and the JSON version."""

import re
from html import unescape

import pytest

from app.forms.fields import RUN

SMALL = (
    "?model=Qwen%2FQwen2.5-0.5B&method=lora&gpu=rtx-4060&sequence_length=256&reserved=rule&compute_metrics=true"
    "&eval_samples=64"
)


def text(html):
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html)))


def test_the_page_names_the_phase_and_lists_the_files(client):
    page = client.get(f"/run{SMALL}")
    as_json = client.get(f"/run.json{SMALL}").json()
    assert page.status_code == 200
    shown = text(page.text)
    assert as_json["ended_in"] == "evaluation"
    assert as_json["sentence"].endswith(
        "With fewer than 8 rows per batch (per_device_eval_batch_size) it needs less. eval_accumulation_steps moves"
        " gathered outputs to host memory."
    )
    assert as_json["sentence"] in shown
    for words in (
        "LoRA · Qwen/Qwen2.5-0.5B · GeForce RTX 4060",
        "Phase by phase",
        "Evaluation",
        "gathered logits",
        "adapter_model.safetensors",
        "optimizer.pt",
    ):
        assert words in shown
    assert f"{as_json['files'][0]['bytes']:,}" in shown


def test_every_input_has_its_label_and_help_and_the_plan_stays(client):
    html = client.get(f"/run{SMALL}").text
    for field in RUN:
        assert f'id="{field.name}"' in html
        assert field.declared.setting.help in unescape(html)
    assert '<input type="hidden" name="sequence_length" value="256">' in html


@pytest.mark.parametrize(
    ("change", "linked"),
    [("&trainer=trl-sft&use_liger_kernel=true", 'href="/?'), ("&eval_samples=none", 'href="#eval_samples"')],
)
def test_a_refusal_links_to_the_field(client, change, linked):
    page = client.get(f"/run{SMALL.replace('&eval_samples=64', '')}{change}")
    assert page.status_code == 422
    assert linked in page.text[page.text.index("There is a problem") :]


def test_a_submitted_form_redirects_to_its_address(client):
    answer = client.post("/run", data={"model": "Qwen/Qwen2.5-0.5B", "eval_strategy": "no"}, follow_redirects=False)
    assert answer.headers["location"] == "/run?model=Qwen%2FQwen2.5-0.5B&eval_strategy=no"


def test_the_answer_of_an_estimate_links_to_its_run(client):
    html = client.get("/?model=Qwen%2FQwen2.5-0.5B&method=lora&reserved=rule").text
    assert 'href="/run?model=Qwen%2FQwen2.5-0.5B&amp;method=lora&amp;reserved=rule"' in html


def test_an_unknown_name_in_the_address_is_refused_in_json(client):
    assert client.get("/run.json?speed=1").status_code == 422
    assert "speed" in text(client.get(f"/run{SMALL}&speed=1").text)


#: A micro-batch that published runs are near.
LONGER = "&micro_batch_size=16&sequence_length=4096"


def test_the_page_states_time_and_cost_with_their_basis(client):
    html = text(client.get(f"/run{SMALL}&gpu=a100-sxm4-80gb&eval_strategy=no&price_per_hour=2{LONGER}").text)
    assert "1,000 training steps take" in html
    assert "At the given price they cost" in html
    assert "an hour on 2026-11-09" in html
    assert "published speeds, the interval from the other sources contains" in html


def test_the_page_states_why_there_is_no_time(client):
    html = text(client.get(f"/run{SMALL}&gpu=quadro-rtx-6000&eval_strategy=no").text)
    assert "The time of this run is not estimated." in html
    assert "the rated speed of" in html
