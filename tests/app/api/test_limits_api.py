"""`POST /api/v1/limits`: the largest value that fits."""

import pytest


@pytest.fixture
def limits(client, plan):
    """The answer to the plan with changes."""
    return lambda **changes: client.post("/api/v1/limits", json={**plan, "solve_for": "r", **changes})


def test_the_points_are_the_estimates_of_their_values(client, plan, limits):
    answer = limits().json()
    assert answer["bound"]["by"] == "memory"
    for point in (answer["at"], answer["above"]):
        estimate = client.post(
            "/api/v1/estimate", json={**plan, "method": {**plan["method"], "r": point["value"]}}
        ).json()
        assert point["verdict"] == estimate["fit"]["verdict"]
        assert point["headroom_bytes"] == estimate["fit"]["headroom_bytes"]
        assert {name: estimate["memory"][name] for name in point.keys() & estimate["memory"]} == {
            name: point[name] for name in point.keys() & estimate["memory"]
        }
    assert answer["at"]["value"] == answer["value"]
    assert (answer["at"]["verdict"], answer["above"]["value"]) == ("fits", answer["value"] + 1)


def test_the_whole_estimate_of_the_value_is_shown_next_to_it(client, plan, limits):
    answer = limits(solve_for="micro_batch_size").json()
    plan["training"]["micro_batch_size"] = answer["value"]
    assert answer["estimate"] == client.post("/api/v1/estimate", json={**plan}).json()


def test_a_rank_that_ends_at_a_matrix_is_answered_with_the_estimate_of_it(client, plan, limits):
    changes = {"device": {"gpu": "h200"}, "method": {"name": "lora", "target_modules": ["q_proj"]}}
    answer = limits(**changes).json()
    assert (answer["bound"]["by"], answer["value"]) == ("matrix", 4096)
    changes["method"]["r"] = answer["value"]
    assert answer["estimate"] == client.post("/api/v1/estimate", json={**plan, **changes}).json()


def test_nothing_that_fits_is_an_answer_too(limits):
    response = limits(
        model="meta-llama/Llama-3.1-70B", method={"name": "full"}, solve_for="sequence_length", reserved="rule"
    )
    answer = response.json()
    assert response.status_code == 200
    assert (answer["value"], answer["at"], answer["estimate"]) == (None, None, None)
    assert answer["above"]["value"] == 2


@pytest.mark.parametrize(
    ("changes", "loc"),
    [
        ({"device": {}}, "device"),
        ({"solve_for": None}, "solve_for"),
        ({"solve_for": "bottleneck_size"}, "solve_for"),
        ({"method": {"name": "lora", "target_modules": ["nothing"]}}, "method.target_modules"),
        ({"grid": {}}, "grid"),
        ({"device": {"gpu": "rtx-4090", "count": 2}}, "device.count"),
    ],
)
def test_a_refused_limit_names_its_field(limits, changes, loc):
    response = limits(**changes)
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
    assert [error["loc"] for error in response.json()["errors"]] == [loc]


def test_the_page_shows_the_limits_that_the_api_answers(client, plan):
    text = client.get("/limits").text
    limits = client.get("/limits.json").json()["limits"]
    body = {**plan, "device": {**plan["device"], "type": "cuda"}, "solve_for": limits[0]["solve_for"]}
    assert limits[0] == client.post("/api/v1/limits", json=body).json()
    for limit in limits:
        name, value = limit["solve_for"], limit["value"]
        assert f'<a href="/?{name}={value}">{value:,}</a>' in text
        assert f'value="{limit["at"]["required_bytes"]}"' in text
        assert limit["guarantee"] in text


def test_the_estimate_page_links_to_the_limits(client):
    assert '<a href="/limits?method=prompt">' in client.get("/?method=prompt").text
    assert "/limits" not in client.get("/?gpu=").text


def test_a_limit_of_the_model_is_reported_on_the_page(client):
    text = client.get("/limits?model=gpt2&method=prompt").text
    assert "context length" in text
    assert "max_position_embeddings" in text
    assert "no such value" in text


def test_a_plan_that_nothing_fits_has_a_page_too(client):
    text = client.get(
        "/limits?model=meta-llama/Llama-3.1-70B&method=full&gradient_checkpointing=false&reserved=rule"
    ).text
    assert text.count('<td class="figure" data-label="Largest that fits">none</td>') == 2


@pytest.mark.parametrize(
    ("address", "message"), [("?gpu=", "a limit needs a GPU"), ("?r=0", "Rank: must be at least 1")]
)
def test_a_plan_without_limits_gives_the_reason_and_links_back(client, address, message):
    response = client.get(f"/limits{address}")
    assert response.status_code == 422
    assert message in response.text
    assert f'<a href="/{address}">Back to the estimate</a>' in response.text


def test_the_json_page_refuses_settings_without_an_input(client):
    assert client.get("/limits.json?seq_len=5").json()["errors"][0]["loc"] == "seq_len"


def test_the_fewest_gpus_are_the_same_on_the_api_and_the_page(client):
    address = "?model=meta-llama/Llama-3.2-1B&method=full&sharding=fsdp&count=8&memory_gib=8&gpu=&reserved=rule"
    body = {
        "model": "meta-llama/Llama-3.2-1B",
        "method": {"name": "full"},
        "training": {"gradient_checkpointing": True},
        "device": {"memory_bytes": 8 << 30, "sharding": "fsdp", "type": "cuda"},
        "reserved": "rule",
        "solve_for": "count",
    }
    answer = client.post("/api/v1/limits", json=body).json()
    assert (answer["at"]["verdict"], answer["below"]["value"]) == ("fits", answer["value"] - 1)
    *_, shown = client.get(f"/limits.json{address}").json()["limits"]
    assert shown == answer
    text = client.get(f"/limits{address}").text
    assert f">{answer['value']}</a>. Each requires" in text
    assert answer["guarantee"] in text


def test_a_run_that_needs_another_sharding_links_to_it(client):
    text = client.get(
        "/limits?model=meta-llama/Llama-3.1-8B&method=full&sharding=ddp&count=2&gpu=rtx-4090&reserved=rule"
    ).text
    assert "With ddp, no number of GPUs fits: the least that was found is" in text
    assert "set “Sharding” to fsdp, zero1 or zero2" in text
