"""The model catalogue: its entries, and how a model is found."""

import json
import re
from collections import Counter
from importlib.resources import files

import pytest

from calculator.catalogue import model, models
from calculator.common.errors import PlanError
from calculator.estimation.estimate import model_of
from calculator.estimation.request import ModelReference, parse_request
from calculator.estimation.traced.check import is_traced, modeled_models


@pytest.mark.parametrize(
    "name",
    [
        "meta-llama/Llama-3.1-8B",
        "META-LLAMA/llama-3.1-8b",
        "  meta-llama/Llama-3.1-8B\n",
        "Llama-3.1-8B",
        "meta-llama/Meta-Llama-3.1-8B",
        "meta-llama/Llama-3.1-8B-Instruct",
        "https://huggingface.co/meta-llama/Llama-3.1-8B",
        "http://www.huggingface.co/meta-llama/Llama-3.1-8B/",
        "huggingface.co/meta-llama/Llama-3.1-8B",
        "https://huggingface.co/meta-llama/Llama-3.1-8B/blob/main/config.json?download=true#L3",
        "https://hf.co/meta-llama/Llama-3.1-8B",
    ],
)
def test_a_model_is_found_by_every_spelling_of_its_name(name):
    assert model(name).id == "meta-llama/Llama-3.1-8B"


def test_a_model_with_a_short_hub_name_is_found_by_it():
    assert model("gpt2").id == model("https://huggingface.co/gpt2").id == "openai-community/gpt2"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("meta-llama/Llama-2-7b-hf", 6_738_415_616),
        ("meta-llama/Llama-2-13b-hf", 13_015_864_320),
        ("meta-llama/Llama-2-70b-hf", 68_976_648_192),
        ("meta-llama/Llama-3.1-8B", 8_030_261_248),
        ("meta-llama/Llama-3.2-1B", 1_235_814_400),
        ("meta-llama/Llama-3.2-3B", 3_212_749_824),
        ("mistralai/Mistral-7B-v0.1", 7_241_732_096),
        ("openai-community/gpt2", 124_439_808),
        ("openai-community/gpt2-medium", 354_823_168),
    ],
)
def test_a_well_known_count_is_the_published_one(name, parameters):
    assert model(name).parameters == parameters


@pytest.mark.parametrize(
    ("name", "named"),
    [("meta-llama/Llama-3.1-9B", "meta-llama/Llama-3.1-8B"), ("qwen2.5", "Qwen/Qwen2.5-7B"), ("gpt3", "gpt2")],
)
def test_an_unknown_model_is_refused_with_the_closest_ones(name, named):
    with pytest.raises(PlanError, match=re.escape(named)) as caught:
        model(name)
    (problem,) = caught.value.problems
    assert problem.loc == "model"
    assert problem.input == name


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct-FP8", "meta-llama/Llama-3.1-8B-Instruct"),
        ("Qwen2.5-7B-Instruct-AWQ", "Qwen/Qwen2.5-7B-Instruct"),
        ("gemma 3 27b", "google/gemma-3-27b-it"),
        ("Qwen/Qwen3-8B-Instruct", "Qwen/Qwen3-8B"),
        ("meta-lama/Llama-3.1-8B-Instrct", "meta-llama/Llama-3.1-8B-Instruct"),
    ],
)
def test_an_alias_of_the_same_owner_is_named_first(name, first):
    with pytest.raises(PlanError, match=f"did you mean {re.escape(first)}, "):
        model(name)


@pytest.mark.parametrize("name", ["LnL-AI/dbrx-base-converted-v2", "deepcogito/cogito-v1-preview-llama-3B"])
def test_a_name_that_is_similar_by_chance_proposes_no_model(name):
    with pytest.raises(PlanError, match=r"is not in the catalogue; give its config\.json"):
        model(name)


@pytest.mark.parametrize("name", ["", " ", "/", "http://[", "https://huggingface.co/", "\x00", "é" * 100_000])
def test_a_name_of_no_model_is_refused_with_an_alternative(name):
    with pytest.raises(PlanError, match=r"config\.json") as caught:
        model(name)
    assert len(str(caught.value)) < 1_000


def test_a_flan_t5_has_the_output_head_of_its_checkpoint():
    entry = model("google/flan-t5-small")
    assert entry.config["tie_word_embeddings"] is False
    assert entry.published is not None
    assert entry.published.parameters == entry.parameters


def test_a_model_with_remote_code_notes_the_family_that_counts_it():
    entry = model("internlm/internlm2-20b")
    assert entry.model_type == entry.config["model_type"] == "llama"
    assert "internlm2" in str(entry.note)


def test_the_catalogue_has_as_many_models_as_its_readme_states():
    readme = files("calculator.catalogue").joinpath("README.md").read_text()
    confirmed = Counter(entry.confirmation for entry in models())
    by_two, by_one, by_fields = (
        confirmed[name] for name in ("two or more sources", "single source", "two fields of one record")
    )
    assert f"{len(models())} models." in readme
    assert (
        f"{by_two} entries are confirmed by two or more independent sources, {by_one} by one, and {by_fields}" in readme
    )
    assert f"Of {len(models()) - len(modeled_models())} entries the calculator does not model the type" in readme


@pytest.mark.parametrize(("name", "traced"), [("GLM-5", True), ("Llama-3.2-11B-Vision", True), ("Kimi-K2", False)])
def test_a_trace_answers_the_models_of_types_that_are_not_modeled(name, traced):
    entry = next(model for model in models() if model.id.split("/")[-1].startswith(name))
    method = {"name": "lora", "target_modules": ["q_proj"]}
    assert is_traced(parse_request({"model": entry.id, "method": method})) is traced


def test_a_model_that_is_only_traced_is_refused_elsewhere_by_its_name():
    with pytest.raises(PlanError, match="does not model glm_moe_dsa, the type of zai-org/GLM-5") as caught:
        model_of(ModelReference(id="zai-org/GLM-5"))
    assert [problem.loc for problem in caught.value.problems] == ["model"]


def test_every_name_is_unique():
    names = [name.lower() for entry in models() for name in (entry.id, *entry.aliases)]
    assert len(names) == len(set(names))
    for entry in models():
        for name in (entry.id, *entry.aliases, entry.id.split("/")[-1]):
            assert model(name) is entry


@pytest.mark.parametrize("entry", models(), ids=lambda entry: entry.id)
def test_every_model_has_a_config_with_its_type_a_count_and_a_source(entry):
    assert entry.config["model_type"] == entry.model_type
    assert entry.parameters > 10**6
    assert entry.sources or entry.published
    assert entry.confirmation in {"two or more sources", "single source", "two fields of one record"}
    json.dumps(entry.config, allow_nan=False)


@pytest.mark.parametrize("entry", [e for e in models() if e.published], ids=lambda entry: entry.id)
def test_a_published_count_is_equal_or_the_difference_is_stated(entry):
    assert entry.published.source
    assert (entry.published.parameters == entry.parameters) == (entry.published.relation == "equal")
