"""`GET /api/v1/cards` and `GET /api/v1/cards/{id}`."""

import pytest

from calculator.cards.table import table


def get(client, card="rtx-4060", **parameters):
    return client.get(f"/api/v1/cards/{card}", params=parameters)


def test_every_row_is_returned_on_request(client):
    answer = get(client, fits="all", limit=2000).json()
    assert answer["total"] == len(answer["rows"]) == len(table())


def test_the_rows_have_the_filters_the_order_and_the_limit_of_the_address(client):
    answer = get(client, method="qlora", sort="sequence_length", order="ascending", limit=3, offset=1).json()
    whole = get(client, method="qlora", sort="sequence_length", order="ascending", limit=2000).json()
    assert answer["rows"] == whole["rows"][1:4]
    assert {row["method"] for row in answer["rows"]} == {"qlora"}


def test_the_request_of_a_row_is_answered_by_an_estimate(client):
    row = get(client, q="gpt2-medium", method="lora").json()["rows"][0]
    answer = client.post("/api/v1/estimate", json=row["request"]).json()
    assert (answer["fit"]["verdict"], answer["fit"]["gpu"]) == ("fits", "rtx-4060")


@pytest.mark.parametrize("name", ["RTX 4060", "4060", "rtx-4060"])
def test_a_gpu_is_found_by_every_name(client, name):
    assert get(client, name).json()["id"] == "rtx-4060"


def test_an_unknown_gpu_is_not_found_and_the_closest_ones_are_named(client):
    response = get(client, "rtx-4061")
    assert response.status_code == 404
    assert "GeForce RTX 4060" in response.json()["detail"]


@pytest.mark.parametrize(
    ("parameters", "loc"),
    [
        ({"sort": "size"}, "sort"),
        ({"sequence_length": "long"}, "sequence_length"),
        ({"limit": 0}, "limit"),
        ({"method": "adapter"}, "method"),
        ({"color": "red"}, "color"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(client, parameters, loc):
    response = get(client, **parameters)
    assert response.status_code == 422
    assert [error["loc"] for error in response.json()["errors"]] == [loc]


def test_a_query_without_matches_is_answered_with_an_empty_list(client):
    answer = get(client, q="no-such-model").json()
    assert (answer["total"], answer["rows"]) == (0, [])


def test_the_list_has_the_gpus_of_a_search(client):
    cards = client.get("/api/v1/cards", params={"q": "4060 ada"}).json()["cards"]
    assert {"rtx-4060", "rtx-4060-ti-16gb"} <= {card["id"] for card in cards}
    assert all("4060" in card["name"] for card in cards)


def test_the_parameters_are_documented(client):
    parameters = client.get("/openapi.json").json()["paths"]["/api/v1/cards/{id}"]["get"]["parameters"]
    documented = {parameter["name"]: parameter for parameter in parameters}
    assert {"id", "q", "method", "fits", "sequence_length", "micro_batch_size", "sort", "order", "offset", "limit"} == {
        *documented
    }
    assert documented["limit"]["schema"]["default"] == 100
