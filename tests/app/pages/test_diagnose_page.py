"""The page `/diagnose`: the figures of the API, for a plan or for a file, without JavaScript."""

import re
from html import unescape

from tests.app.api.test_diagnose_api import EVALUATION, IN_EVALUATION, MESSAGE, RUN, YAML, run_snapshot

CUDA = {"device": {"type": "cuda"}}
ON_CUDA = {**RUN, **CUDA}

PLAN = {
    "model": "openai-community/gpt2",
    "method": "full",
    "micro_batch_size": "8",
    "sequence_length": "1024",
    "dtype": "float32",
    "attention": "eager",
    "gradient_checkpointing": "false",
    "gpu": "",
}


def test_the_page_states_the_apis_answer(client):
    response = client.post("/diagnose", data={**PLAN, "message": MESSAGE})
    answer = client.post("/api/v1/diagnose", json={"message": MESSAGE, "request": ON_CUDA}).json()
    text = unescape(response.text)
    assert response.status_code == 200
    assert all(sentence in text for sentence in answer["sentences"])
    assert [int(value) for value in re.findall(r'data-label="Saves"><data value="(\d+)"', text)] == [
        change["saved_bytes"] for change in answer["changes"]
    ]
    assert text.count('data-label="When"') == len(answer["matches"])


def test_a_change_links_to_the_changed_plan(client):
    text = unescape(client.post("/diagnose", data={**PLAN, "message": MESSAGE}).text)
    addresses = re.findall(r'<th scope="row"><a href="(/\?[^"]*)">', text)
    answer = client.post("/api/v1/diagnose", json={"message": MESSAGE, "request": ON_CUDA}).json()
    assert len(addresses) == len(answer["changes"])
    saved = [change["request"] for change in answer["changes"]]
    estimate = client.get(f"{addresses[0].replace('/?', '/estimate.json?')}&reserved=rule").json()
    expected = client.post("/api/v1/estimate", json={**saved[0], "reserved": "rule"}).json()
    assert estimate["memory"]["peak_allocated_bytes"] == expected["memory"]["peak_allocated_bytes"]


def test_the_page_of_a_plan_keeps_it_in_the_form_and_the_plan_links_to_it(client):
    plan = client.get("/?model=gpt2&micro_batch_size=8&reserved=rule").text
    assert 'href="/diagnose?model=gpt2' in unescape(plan)
    text = client.get("/diagnose?model=gpt2&micro_batch_size=8").text
    assert '<input type="hidden" name="micro_batch_size" value="8">' in text
    assert "QLoRA on gpt2, micro-batch 8, 2,048 tokens." in text
    assert 'href="/diagnose" aria-current="page"' in text


def test_an_error_of_the_evaluation_is_explained_and_its_changes_link_to_the_run(client):
    run = {"eval_strategy": "epoch", "compute_metrics": "true", "eval_samples": "200"}
    text = unescape(client.post("/diagnose", data={**PLAN, **run, "message": IN_EVALUATION}).text)
    answer = client.post("/api/v1/diagnose", json={"message": IN_EVALUATION, "request": {**ON_CUDA, "run": EVALUATION}})
    assert all(sentence in text for sentence in answer.json()["sentences"])
    assert "Tensors of that size outside the steps" in text
    addresses = re.findall(r'<th scope="row"><a href="(/run\?[^"]*)">', text)
    assert len(addresses) == len(answer.json()["changes"])
    assert client.get(addresses[0]).status_code == 200
    wrong = client.post("/diagnose", data={**PLAN, **run, "eval_samples": "0", "message": IN_EVALUATION})
    assert (wrong.status_code, '<a href="#eval_samples">' in wrong.text) == (422, True)
    link = re.search(r'href="(/diagnose\?[^"]*)"', unescape(client.get("/run?model=gpt2&reserved=rule").text))
    assert "<option selected>epoch</option>" in client.get(link[1]).text


def test_a_file_replaces_the_plan(client):
    response = client.post("/diagnose", data={"message": MESSAGE, "content": YAML, "gpu": ""})
    answer = client.post("/api/v1/diagnose", json={"message": MESSAGE, "content": YAML, "request": CUDA}).json()
    assert all(sentence in unescape(response.text) for sentence in answer["sentences"])


def test_wrong_input_is_a_422_that_links_to_the_field_and_keeps_the_text(client):
    cut = client.post("/diagnose", data={**PLAN, "message": MESSAGE[:100]})
    assert (cut.status_code, '<a href="#message">' in cut.text, MESSAGE[:100] in cut.text) == (422, True, True)
    file = client.post("/diagnose", data={**PLAN, "message": MESSAGE, "content": "foo: [bar"})
    assert (file.status_code, '<a href="#content">' in file.text) == (422, True)
    plan = client.post("/diagnose", data={**PLAN, "message": MESSAGE, "sequence_length": "0"})
    assert (plan.status_code, "sequence_length" in plan.text) == (422, True)
    assert client.post("/diagnose", data=PLAN).status_code == 422


def test_a_snapshot_file_is_shown_next_to_the_run_without_scripts(client):
    file = {"snapshot": ("s.pickle", run_snapshot(), "application/octet-stream")}
    response = client.post("/diagnose", data=PLAN, files=file)
    text = unescape(response.text)
    assert response.status_code == 200
    assert "The snapshot compared with the run" in text
    assert 'id="snapshot-figure"' in text
    assert "100 % are blocks whose size equals that of a tensor of the run" in text


def test_a_hostile_or_too_large_file_is_refused_by_its_field(client):
    hostile = {"snapshot": ("s.pickle", b"cos\nsystem\n(S'true'\ntR.", "application/octet-stream")}
    response = client.post("/diagnose", data=PLAN, files=hostile)
    assert (response.status_code, '<a href="#snapshot">' in response.text) == (422, True)
    large = {"snapshot": ("s.pickle", b"." * (1 << 20), "application/octet-stream")}
    assert client.post("/diagnose", data=PLAN, files=large).status_code == 413


def test_an_empty_file_field_counts_as_none(client):
    empty = {"snapshot": ("", b"", "application/octet-stream")}
    assert client.post("/diagnose", data={**PLAN, "message": MESSAGE}, files=empty).status_code == 200
