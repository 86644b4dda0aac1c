"""A request with several unknown names is refused with all of them, each at its place."""

import pytest

NAMES = {"model": "no/such", "method": {"name": "none"}, "device": {"gpu": "none"}}
LOCS = ["model", "method.name", "device.gpu"]


@pytest.mark.parametrize(
    ("path", "body", "locs"),
    [
        ("estimate", NAMES, LOCS),
        ("run", {**NAMES, "run": {"none": 1}}, [*LOCS, "run.none"]),
        ("limits", {**NAMES, "solve_for": "none"}, ["solve_for", *LOCS]),
        ("export", {**NAMES, "format": "none"}, ["format", *LOCS]),
        ("inference", NAMES, LOCS),
        ("diagnose", {"message": "none", "request": NAMES}, ["message", *(f"request.{loc}" for loc in LOCS)]),
        (
            "compare",
            {"model": "no/such", "device": {"gpu": "none"}, "methods": [{"name": "none"}, {"name": "neither"}]},
            ["model", "device.gpu", "methods.0.name", "methods.1.name"],
        ),
        (
            "plan",
            {"models": ["no/such", "gpt2", "none"], "devices": [{"gpu": "none"}, {"gpu": "h200"}, {"gpu": "neither"}]},
            ["models.0", "models.2", "devices.0.gpu", "devices.2.gpu"],
        ),
        (
            "sweep",
            {"request": NAMES, "grid": {"method.r": [1, 2]}},
            ["request.model", "request.device.gpu"],
        ),
    ],
)
def test_all_unknown_names_are_reported_together(client, path, body, locs):
    response = client.post(f"/api/v1/{path}", json=body)
    assert response.status_code == 422
    assert [error["loc"] for error in response.json()["errors"]] == locs


def test_an_unknown_name_that_a_grid_varies_is_a_problem_of_its_points(client):
    body = {"request": {"method": {"name": "lora"}}, "grid": {"model": ["gpt2", "no/such"]}}
    answers = client.post("/api/v1/sweep", json=body).text.splitlines()
    assert ["not in the catalogue" in answer for answer in answers] == [False, True]


def test_a_file_of_an_unknown_model_is_read(client):
    response = client.post("/api/v1/import", json={"content": "base_model: no/such\nadapter: lora"})
    assert (response.status_code, response.json()["request"]["model"]) == (200, "no/such")


def test_a_page_states_every_unknown_name(client):
    page = client.get("/?model=no/such&method=none&gpu=none")
    assert page.status_code == 422
    assert [f'<a href="#{name}">' in page.text for name in ("model", "method", "gpu")] == [True, True, True]
