"""Full fine-tuning of chosen parameters in the files of tools and in scripts."""

import pytest

from app.interop.exports import FORMATS
from app.interop.exports.planned import planned
from app.interop.imports import read
from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

#: Sixteen layers, with one table for embeddings and head.
MODEL = "meta-llama/Llama-3.2-1B"
FREEZE = f"model_name_or_path: {MODEL}\nfinetuning_type: freeze\ncutoff_len: 512\nbf16: true\n"


def exported(body, format_):
    request = parse_request(body)
    return FORMATS[format_](planned(request, estimate(request)))


@pytest.mark.parametrize(
    ("keys", "patterns"),
    [
        ("", ["model.layers.14.", "model.layers.15."]),
        ("freeze_trainable_layers: -1", ["model.layers.0."]),
        ("freeze_trainable_layers: 1\nfreeze_trainable_modules: mlp,input_layernorm",
         ["model.layers.15.mlp", "model.layers.15.input_layernorm"]),
        ("freeze_trainable_layers: 1\nfreeze_extra_modules: embed_tokens,norm",
         ["model.layers.15.", "^model.embed_tokens.weight$", "^model.norm.weight$"]),
        ("freeze_trainable_layers: 4\nuse_llama_pro: true", [f"model.layers.{n}." for n in (3, 7, 11, 15)]),
    ],
)  # fmt: skip
def test_finetuning_type_freeze_trains_the_layers_that_its_keys_choose(keys, patterns):
    found = read(FREEZE + keys)
    assert found.request["method"] == {
        "name": "full", "unfrozen_parameters": patterns, "unfrozen_dtype": "float32"
    }  # fmt: skip
    of_last_layers = "layers: -1" not in keys and "embed" not in keys and "pro" not in keys
    assert [remark.key for remark in found.not_understood] == (
        [] if of_last_layers else ["disable_gradient_checkpointing"]
    )


def test_pure_bf16_casts_nothing():
    assert "unfrozen_dtype" not in read(FREEZE.replace("bf16: true", "pure_bf16: true")).request["method"]


@pytest.mark.parametrize(
    "text",
    [FREEZE + "freeze_trainable_layers: 0", FREEZE + "freeze_trainable_layers: 3\nuse_llama_pro: true",
     FREEZE.replace(MODEL, "someone/unknown")],
)  # fmt: skip
def test_a_choice_that_cannot_be_made_is_refused(text):
    with pytest.raises(PlanError):
        read(text)


def test_axolotl_names_unfrozen_parameters():
    text = (
        f"base_model: {MODEL}\nsequence_len: 512\nunfrozen_parameters:\n- ^model.norm.weight$\n- model.layers.15.mlp\n"
    )
    found = read(text)
    assert found.request["method"]["unfrozen_parameters"] == ["^model.norm.weight$", "model.layers.15.mlp"]
    assert "unfrozen_parameters" in {
        remark.key for remark in read(f"{text}adapter: lora\nlora_target_linear: true").not_understood
    }


@pytest.mark.parametrize("format_", ["peft", "axolotl", "llama-factory"])
def test_chosen_parameters_are_the_same_after_export_and_import(format_):
    method = {
        "name": "full",
        "unfrozen_parameters": ["model.layers.14.", "model.layers.15.", "^model.norm.weight$"],
        "unfrozen_dtype": "model" if format_ == "axolotl" else "float32",
    }
    training = {"trainer": "transformers", "autocast": "bfloat16", "sequence_length": 512}
    body = {"model": MODEL, "method": method, "training": training}
    before = estimate(parse_request(body))
    request = read(exported(body, format_).content).request
    after = estimate(parse_request({**request, "training": {**request["training"], **training}}))
    assert request["method"].get("unfrozen_dtype", "model") == method["unfrozen_dtype"]
    assert after.parameters == before.parameters


def test_llama_factory_lists_a_choice_that_freeze_cannot_make():
    method = {"name": "full", "unfrozen_parameters": ["model.layers.3."]}
    body = {"model": MODEL, "method": method, "training": {"trainer": "transformers", "sequence_length": 512}}
    assert "method.unfrozen_parameters" in [remark.loc for remark in exported(body, "llama-factory").not_expressed]


@pytest.mark.parametrize(
    "statement", ["for p in model.parameters():\n    p.requires_grad = False", "model.lm_head.requires_grad_(False)"]
)
def test_other_code_that_freezes_parameters_is_listed_by_line(statement):
    load = f'model = AutoModelForCausalLM.from_pretrained("{MODEL}")'
    code = f"{load}\n{statement}\nTrainer(model=model, args=TrainingArguments())\n"
    (missed,) = [remark for remark in read(code).not_understood if remark.key == "requires_grad"]
    assert missed.value in {"line 2", "line 3"}
    adapted = code.replace("Trainer(model", "model = get_peft_model(model, LoraConfig())\nTrainer(model")
    assert not [remark for remark in read(adapted).not_understood if remark.key == "requires_grad"]
