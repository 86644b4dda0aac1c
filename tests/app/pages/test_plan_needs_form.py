"""The needs form reads shared addresses, and links to exactly the configurations that it proposes."""

from urllib.parse import parse_qsl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.forms import plan_form as form
from app.pages.plan import form as needs_form
from calculator.estimation.request import parse_request
from calculator.planning.plan import plan
from calculator.planning.request import parse_plan


def typed(address):
    return needs_form.read(parse_qsl(address.partition("?")[2], keep_blank_values=True))


def test_an_empty_address_is_the_first_plan():
    body = typed("/plan").body()
    assert body == {"model": "meta-llama/Llama-3.1-8B", "device": {"gpu": "rtx-4090", "type": "cuda"}, "needs": {}}
    assert parse_plan(body).needs.order == ("quality", "speed", "memory")
    assert typed("/plan").address() == ""


def test_needs_are_typed_as_the_api_names_them():
    body = typed("?tasks=20&switch_per_request=false&switch_per_request=true&max_trainable_fraction=0.01").body()
    assert body["needs"] == {"tasks": 20, "switch_per_request": True, "max_trainable_fraction": 0.01}
    assert typed("?priorities=memory").body()["needs"] == {"priorities": ["memory"]}


def test_several_models_and_gpus_are_a_shortlist():
    body = typed("?model=gpt2,+distilgpt2&gpus=L4,+RTX+5090").body()
    assert body["models"] == ["gpt2", "distilgpt2"]
    assert body["devices"] == [{"gpu": name, "type": "cuda"} for name in ("rtx-4090", "L4", "RTX 5090")]
    assert typed("?gpu=&gpus=L4&device_type=meta").body()["device"] == {"gpu": "L4"}
    assert typed("?gpu=&memory_gib=16").body()["device"] == {"memory_bytes": 16 << 30, "type": "cuda"}
    assert typed("?gpu=").body()["device"] == {}


@pytest.mark.parametrize(
    ("address", "loc", "name"),
    [
        ("", "needs.tasks", "tasks"),
        ("", "needs", ""),
        ("", "model", "model"),
        ("?config={}", "model.config.hidden_size", "config"),
        ("?model=a,b", "models.1", "model"),
        ("", "device.gpu", "gpu"),
        ("?gpu=", "device.gpu", "gpu"),
        ("?gpu=&gpus=L4", "device.gpu", "gpus"),
        ("?gpus=L4", "devices.0.gpu", "gpu"),
        ("?gpus=L4", "devices.1.gpu", "gpus"),
        ("", "device.memory_bytes", "memory_gib"),
        ("?gpus=L4", "devices.1.type", "device_type"),
        ("", "", ""),
    ],
)
def test_a_path_in_the_request_belongs_to_an_input(address, loc, name):
    assert typed(address).field_of(loc) == name


VALUES = st.dictionaries(st.sampled_from(sorted(needs_form.DEFAULTS)), st.text(max_size=12), max_size=5)


@given(values=VALUES)
@example(values={"config": "\r", "model": ""})
def test_an_address_contains_everything_that_is_typed(values):
    form = needs_form.read(values.items())
    assert typed(form.address()).typed == form.typed


@pytest.mark.parametrize(
    "address",
    [
        "?model=meta-llama/Llama-3.1-8B&gpu=l40s&frozen_base=true",
        "?model=meta-llama/Llama-3.2-3B&gpu=rtx-4060",
        "?model=gpt2&gpu=&memory_gib=23.5&sequence_length=512",
        "?model=meta-llama/Llama-3.2-1B&gpu=t4&tasks=3",
        "?model=meta-llama/Llama-3.2-1B&count=2&reserved=rule",
    ],
)
def test_each_configuration_links_to_a_page_with_the_same_figures(address):
    (part,) = plan(parse_plan(typed(address).body())).plans
    assert part.configurations
    for configuration in part.configurations:
        link = needs_form.estimate_address(configuration.request)
        led_to = form.read(parse_qsl(link.partition("?")[2], keep_blank_values=True))
        request = parse_request(led_to.estimate())
        assert led_to.unknown == ()
        assert request.method == configuration.request.method
        assert request.training == configuration.request.training
        assert request.device == configuration.request.device
        assert request.model == configuration.request.model


def test_a_config_json_travels_in_the_link_too():
    config = '{"model_type":"gpt2","n_layer":2,"n_embd":256,"n_head":4,"vocab_size":1000}'
    (part,) = plan(parse_plan(needs_form.read([("config", config), ("sequence_length", "256")]).body())).plans
    link = needs_form.estimate_address(part.configurations[0].request)
    led_to = form.read(parse_qsl(link.partition("?")[2], keep_blank_values=True))
    assert parse_request(led_to.estimate()).model == part.configurations[0].request.model


def test_a_trainer_and_its_settings_go_into_the_request_and_the_address():
    form = needs_form.read([("trainer", "trl-kto"), ("autocast", "bfloat16")])
    assert form.body()["training"] == {"trainer": "trl-kto", "autocast": "bfloat16"}
    assert form.address() == "?trainer=trl-kto&autocast=bfloat16"
    assert "training" not in needs_form.read([]).body()
    assert form.field_of("training.autocast") == "autocast"


def test_several_gpus_are_of_every_gpu_and_have_a_sharding_only_if_it_is_typed():
    body = typed("?gpus=L4&count=4&nodes=2").body()
    several = {"count": 4, "nodes": 2, "type": "cuda"}
    assert body["devices"] == [{"gpu": "rtx-4090", **several}, {"gpu": "L4", **several}]
    device = typed("?count=4&sharding=fsdp").body()["device"]
    assert device == {"gpu": "rtx-4090", "count": 4, "sharding": "fsdp", "type": "cuda"}


def test_a_plan_of_an_estimate_on_several_gpus_keeps_them_and_its_whole_batch():
    plan_form = form.Form(
        typed={**form.DEFAULTS, "count": "4", "sharding": "fsdp", "micro_batch_size": "2"},
    )
    body = typed(needs_form.address_of(plan_form, parse_request(plan_form.estimate()))).body()
    assert body["device"] == {"gpu": "rtx-4090", "count": 4, "sharding": "fsdp", "type": "cuda"}
    assert body["needs"]["effective_batch_size"] == 8
