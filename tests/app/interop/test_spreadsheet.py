"""The CSV and Markdown versions of a plan have the page's figures, to the byte."""

import csv
from io import StringIO

import pytest


def rows(client, query=""):
    response = client.get(f"/estimate.csv{query}")
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["content-disposition"] == 'attachment; filename="estimate.csv"'
    return list(csv.DictReader(StringIO(response.text)))


@pytest.mark.parametrize("query", ["", "?method=full&optimizer=adafactor", "?accounting=textbook"])
def test_the_rows_sum_to_what_is_required_and_by_component(client, query):
    memory = client.get(f"/estimate.json{query}").json()["memory"]
    table = rows(client, query)
    assert sum(int(row["bytes"]) for row in table) == memory["required_bytes"]
    for component in memory["components"]:
        assert sum(int(row["bytes"]) for row in table if row["component"] == component["name"]) == component["bytes"]
    assert all(row["source"] for row in table)


def test_the_summary_states_the_verdict_the_parts_and_where_the_plan_is(client):
    answer = client.get("/estimate.json?r=32").json()
    text = client.get("/estimate.md?r=32").text
    assert text.startswith("# QLoRA of meta-llama/Llama-3.1-8B\n")
    assert "fits with" in text
    for component in answer["memory"]["components"]:
        assert f"| {component['bytes']:,} |" in text
    assert f"{answer['saved_bytes']:,} bytes" in text
    assert text.rstrip().endswith("/?r=32>")


@pytest.mark.parametrize("path", ["/estimate.csv", "/estimate.md"])
def test_a_plan_without_an_answer_has_neither(client, path):
    assert client.get(f"{path}?r=0").status_code == 422
    assert client.get(f"{path}?seq_len=5").json()["errors"][0]["loc"] == "seq_len"
