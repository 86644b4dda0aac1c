"""The form reads shared addresses, and writes the shortest address of the same plan."""

from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.forms.fields import FIELDS, METHOD
from app.forms.plan_form import DEFAULTS, field_of, filled, read, typed_request
from app.http.bodies import decode_form
from calculator.estimation.request import parse_request
from calculator.methods import USUAL_METHODS


def typed(address):
    return read(parse_qsl(address.removeprefix("?"), keep_blank_values=True))


def test_an_empty_address_is_the_first_plan():
    request = parse_request(read([]).estimate())
    assert request.model.id == "meta-llama/Llama-3.1-8B"
    assert request.method.name == "qlora"
    assert (request.method.r, request.method.target_modules) == (16, "all-linear")
    assert (request.training.micro_batch_size, request.training.sequence_length) == (1, 2048)
    assert request.training.gradient_checkpointing is True
    assert request.device.gpu == "rtx-4090"
    assert read([]).address() == ""


def test_a_ticked_checkbox_outweighs_the_hidden_false_before_it():
    assert typed("padding=false&padding=true").estimate()["training"]["padding"] is True


def test_an_unticked_checkbox_is_false_if_the_form_was_sent_and_usual_if_it_was_not():
    assert "gradient_checkpointing" not in typed("gradient_checkpointing=false").estimate()["training"]
    assert typed("r=8").estimate()["training"]["gradient_checkpointing"] is True
    assert (
        typed("prepare_model_for_kbit_training=false").estimate()["method"]["prepare_model_for_kbit_training"] is False
    )


def test_an_empty_number_is_absent_or_null_if_it_is_nullable():
    assert typed("sequence_length=").estimate()["training"] == {"gradient_checkpointing": True}
    assert typed("max_grad_norm=").estimate()["training"]["max_grad_norm"] is None
    assert typed("gpu=").estimate()["device"] == {"type": "cuda"}


@pytest.mark.parametrize(
    "address",
    ["", "?max_grad_norm=", "?micro_batch_size=3&double_quant=false", "?use_reentrant=false&gpu=&method=lora"],
)
def test_a_request_is_typed_as_the_form_it_came_from(address):
    form = typed(address)
    same = typed_request(parse_request(form.estimate()))
    assert {name: form.typed[name] for name in same} == same


def test_lists_are_typed_with_commas_or_spaces():
    assert typed("target_modules=q_proj,+v_proj").estimate()["method"]["target_modules"] == ["q_proj", "v_proj"]
    assert typed("target_modules=").estimate()["method"] == {"name": "qlora", "r": 16}


def test_memory_is_typed_in_gib():
    assert typed("gpu=&memory_gib=24").estimate()["device"]["memory_bytes"] == 24 << 30
    assert typed("gpu=&memory_gib=23.5").estimate()["device"]["memory_bytes"] == 47 << 29


def test_a_form_counts_what_cuda_allocates_unless_its_address_says_meta():
    assert typed("").estimate()["device"]["type"] == "cuda"
    assert typed("device_type=meta").estimate()["device"] == {"gpu": "rtx-4090"}
    assert typed("device_type=meta").address() == "?device_type=meta"
    assert typed("device_type=cuda").address() == ""
    assert field_of("device.type") == "device_type"


def test_a_request_of_the_api_keeps_its_device_type():
    request = {"model": "gpt2", "method": {"name": "full"}}
    assert "device_type=meta" in filled(request).address()
    assert "device_type" not in filled({**request, "device": {"type": "cuda"}}).address()


@pytest.mark.parametrize("text", ["abc", "nan", "inf", "1e999", "−3", "24 GB", "1;2"])
def test_text_that_is_no_number_stays_as_typed(text):
    form = read([("sequence_length", text), ("memory_gib", text)])
    assert form.estimate()["training"]["sequence_length"] == text
    assert form.estimate()["device"]["memory_bytes"] == text


def test_a_whole_number_may_be_typed_as_the_pages_print_it():
    form = typed("sequence_length=2,048&gradient_accumulation_steps=1,000,000&r=16")
    assert form.estimate()["training"]["gradient_accumulation_steps"] == 1_000_000
    assert parse_request(form.estimate()).training.sequence_length == 2048


@pytest.mark.parametrize("text", ["2,5", "20,48", "2,0480", "0,048", ",048", "2,048,", "2,048.0", "2 048"])
def test_commas_elsewhere_than_between_thousands_stay_as_typed(text):
    assert typed(f"sequence_length={text}").estimate()["training"]["sequence_length"] == text
    assert typed(f"model={text}").estimate()["model"] == text


@pytest.mark.parametrize("name", ["lora_alpha", "max_grad_norm", "memory_gib"])
def test_a_comma_in_a_field_with_decimals_is_refused(name):
    body = typed(f"{name}=1,500").estimate()
    assert "1,500" in (*body["method"].values(), *body["training"].values(), *body["device"].values())


def test_a_bare_count_is_a_model_of_that_many_parameters():
    assert typed("model=70,000,000,000").estimate()["model"] == {"parameters": 70_000_000_000}


def test_a_pasted_config_is_the_model_and_travels_without_spaces():
    form = read([("config", '{\n  "model_type": "llama",\n  "hidden_size": 64\n}')])
    assert form.estimate()["model"] == {"config": {"model_type": "llama", "hidden_size": 64}}
    assert form.typed["model"] == ""
    assert form.address() == "?config=%7B%22model_type%22%3A%22llama%22%2C%22hidden_size%22%3A64%7D"
    assert typed(form.address()).typed == form.typed


def test_a_button_changes_its_own_fields_and_keeps_the_others():
    body = b"method=lora&r=8&change=method%3Dqlora%26gpu%3Dl40s%26memory_gib%3D&memory_gib=12"
    form = read(decode_form(body))
    assert form.unknown == ()
    assert [form.typed[name] for name in ("method", "r", "gpu", "memory_gib")] == ["qlora", "8", "l40s", ""]


def test_names_that_no_input_has_are_reported():
    assert typed("r=8&seq_len=5&utm_source=x").unknown == ("seq_len", "utm_source")


def test_a_link_changes_one_field_and_keeps_the_rest():
    assert typed("r=32&padding=true").address(method="lora") == "?method=lora&r=32&padding=true"
    assert typed("method=lora&r=32").address(method="qlora") == "?r=32"


def test_a_comparison_has_the_usual_methods_with_their_own_inputs():
    methods = {
        method["name"]: method for method in typed("r=4&bottleneck_size=8&num_virtual_tokens=5").comparison()["methods"]
    }
    assert tuple(methods) == USUAL_METHODS
    assert methods["lora"]["r"] == methods["qlora"]["r"] == 4
    assert methods["adapter"] == {"name": "adapter", "bottleneck_size": 8}
    assert methods["prefix"]["num_virtual_tokens"] == methods["prompt"]["num_virtual_tokens"] == 5


def test_a_comparison_has_the_ticked_methods_and_the_chosen_one():
    methods = typed("method=loha&compared=vera&compared=lokr&r=4&vera_r=64&target_modules=").comparison()["methods"]
    further = [{"name": "loha", "r": 4}, {"name": "vera", "r": 64}, {"name": "lokr", "r": 4}]
    assert methods[len(USUAL_METHODS) :] == further


def test_ticked_methods_are_in_a_plans_address():
    assert typed("compared=vera&compared=lokr").address() == "?compared=vera%2Clokr"


def test_a_setting_that_differs_between_methods_has_its_own_field():
    assert typed("method=vera").shown("vera_r") == "256"
    assert typed("method=loha").estimate()["method"]["r"] == 16
    assert field_of("method.r", "vera") == "vera_r"
    assert field_of("method.r", "loha") == "r"


def test_ln_tuning_does_not_copy_every_linear_layer_because_lora_adapts_them():
    assert typed("method=ln_tuning").estimate()["method"] == {"name": "ln_tuning"}
    assert {"name": "ln_tuning"} in typed("method=qlora").comparison()["methods"]
    named = typed("method=ln_tuning&ln_tuning_target_modules=all-linear").estimate()["method"]
    assert named == {"name": "ln_tuning", "target_modules": "all-linear"}


def test_methods_share_an_input_only_if_they_declare_it_equally():
    declared = {}
    for field in (field for fields in METHOD.values() for field in fields):
        declared.setdefault(field.name, set()).add((str(field.declared.type), field.declared.default))
    assert {name for name, seen in declared.items() if len(seen) > 1} == set()


@pytest.mark.parametrize(
    ("loc", "name"),
    [
        ("training.sequence_length", "sequence_length"),
        ("methods.2.r", "r"),
        ("method.target_modules.0", "target_modules"),
        ("method.name", "method"),
        ("method", "method"),
        ("device.memory_bytes", "memory_gib"),
        ("device", "gpu"),
        ("model.config.hidden_size", "config"),
        ("model", "model"),
        ("accounting", "accounting"),
        ("", ""),
    ],
)
def test_a_path_in_a_request_belongs_to_an_input(loc, name):
    assert field_of(loc) == name


VALUES = st.dictionaries(st.sampled_from(sorted(DEFAULTS)), st.text(max_size=12), max_size=5)


@given(values=VALUES)
def test_an_address_contains_everything_that_is_typed(values):
    form = read(values.items())
    assert typed(form.address()).typed == form.typed


def test_names_may_be_typed_as_the_list_that_a_request_has():
    field = FIELDS["target_modules"]
    assert field.value("q_proj, v_proj") == field.value('["q_proj", "v_proj"]') == ["q_proj", "v_proj"]
    assert field.value('["q_proj",') == '["q_proj",'
