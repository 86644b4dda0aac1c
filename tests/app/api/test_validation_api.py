"""`GET /api/v1/validation` serves what is committed."""

import json

from app.api.accuracy.results import RESULTS
from app.api.answers.validation import NOT_MEASURED


def test_every_published_figure_is_served_as_it_is_committed(client):
    response = client.get("/api/v1/validation")
    assert response.status_code == 200
    served = response.json()["published"]
    committed = json.loads((RESULTS / "published.json").read_text(encoding="utf-8"))
    assert served["date"] == committed["date"]
    assert served["summary"] == committed["summary"]
    for row, answer in zip(committed["rows"], served["rows"], strict=True):
        assert {key: answer[key] for key in row if key != "peers"} == {k: v for k, v in row.items() if k != "peers"}
        assert len(answer["peers"]) == len(row.get("peers", ()))


def test_a_row_shows_its_error_its_address_and_the_peers(client):
    rows = {row["id"]: row for row in client.get("/api/v1/validation").json()["published"]["rows"]}
    row = rows["peft_metamathqa/29/max_memory_reserved"]
    assert row["error"] == round(row["predicted_bytes"] / row["measured_bytes"] - 1, 6)
    assert row["address"].startswith("https://github.com/huggingface/peft/blob/")
    assert [peer["name"] for peer in row["peers"]] == ["fitcheck-llm", "canifinetune", "accelerate"]
    assert row["peers"][2]["reason"] == "only full fine-tuning is estimated"


def test_settings_that_are_not_expressed_have_a_reason(client):
    for row in client.get("/api/v1/validation").json()["published"]["rows"]:
        assert row["expressed"] == "whole" or row["differs"]


def test_a_remark_states_that_we_measured_nothing(client):
    answer = client.get("/api/v1/validation").json()
    assert answer["remark"] == (None if answer["measured"] else NOT_MEASURED)
