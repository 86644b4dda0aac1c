"""Optimizers that are modeled on one GPU: what is refused with them, and what an answer says."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.inputs.active_layers import ACTIVE_LAYERS
from calculator.inputs.training_settings import OTHER_OPTIMIZERS
from calculator.resident.optimizers import OPTIMIZERS, UNCLIPPED
from calculator.run import refusals
from calculator.run.request import parse_run

MODEL = {
    "config": {
        "model_type": "llama",
        "vocab_size": 1000,
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
    }
}
ON_ONE_GPU = [name for name, optimizer in OPTIMIZERS.items() if optimizer.on_one_gpu]


def body(optimizer, method=None, device=None, **training):
    settings = {"sequence_length": 16, "optimizer": optimizer, **training}
    if OPTIMIZERS[optimizer].projects:
        settings = {"optim_target_modules": "all-linear", **settings}
    more = {"device": device} if device else {}
    return {"model": MODEL, "method": method or {"name": "full"}, "training": settings, "reserved": "rule", **more}


@pytest.mark.parametrize(
    ("name", "hint"),
    [("galore", "galore_adamw, and set"), ("gradient_release", "optimizer_in_bwd"), ("adam", "adamw_")],
)
def test_names_of_papers_and_tools_are_refused_with_the_optimizer_to_use(name, hint):
    with pytest.raises(PlanError, match=rf"must be one of .*\. .*{hint}"):
        parse_request({"model": MODEL, "method": {"name": "full"}, "training": {"optimizer": name}})


@pytest.mark.parametrize("name", [*OTHER_OPTIMIZERS, *ACTIVE_LAYERS])
def test_names_with_a_hint_are_no_optimizers(name):
    assert name not in OPTIMIZERS


def memory(optimizer, **training):
    return estimate(parse_request(body(optimizer, **training))).memory


def states(optimizer, **training):
    parts = memory(optimizer, **training).components
    return next((part.bytes for part in parts if part.name == "optimizer_states"), 0)


@pytest.mark.parametrize("optimizer", ON_ONE_GPU)
@pytest.mark.parametrize("sharding", ["fsdp", "zero2"])
def test_shards_are_refused_with_the_librarys_reason_unless_they_are_modeled(optimizer, sharding):
    request = parse_request(body(optimizer, device={"count": 2, "sharding": sharding}, autocast="bfloat16"))
    facts = OPTIMIZERS[optimizer]
    reason = facts.refuses_fsdp if sharding == "fsdp" else facts.refuses_zero
    if facts.updates_shards and not reason:
        assert estimate(request).memory.peak_allocated_bytes
        return
    with pytest.raises(PlanError, match=r"training\.optimizer: "):
        estimate(request)


@pytest.mark.parametrize("optimizer", [name for name in ON_ONE_GPU if OPTIMIZERS[name].refuses_ddp])
def test_ddp_is_refused_if_a_backward_pass_updates(optimizer):
    with pytest.raises(PlanError, match=r"is modeled on one GPU only: .*(NotImplementedError|before DDP)"):
        estimate(parse_request(body(optimizer, device={"count": 2, "sharding": "ddp"})))


@pytest.mark.parametrize(
    ("optimizer", "reason"),
    [
        ("lomo", "FSDP2 sets their gradients itself"),
        ("lorafa", "plain tensors next to FSDP2's DTensor shards"),
        ("galore_adamw_layerwise", "NotImplementedError"),
    ],
)
def test_a_refusal_under_fsdp_has_the_reason_of_fsdp(optimizer, reason):
    with pytest.raises(PlanError) as caught:
        estimate(parse_request(body(optimizer, device={"count": 2, "sharding": "fsdp"})))
    assert reason in str(caught.value)
    assert "before DDP" not in str(caught.value)


@pytest.mark.parametrize(
    "optimizer", [name for name in ON_ONE_GPU if not OPTIMIZERS[name].refuses_ddp and name != "lorafa"]
)
def test_every_rank_of_ddp_has_all_states(optimizer):
    alone, replicated = (
        estimate(parse_request(body(optimizer, device=device))).memory.components
        for device in (None, {"count": 2, "sharding": "ddp"})
    )
    states = [
        {component.name: component.bytes for component in found}.get("optimizer_states", 0)
        for found in (alone, replicated)
    ]
    assert states[0] == states[1]


def test_a_trainer_is_refused_if_transformers_has_no_such_optimizer():
    with pytest.raises(PlanError, match=r"TrainingArguments\.optim does not have it"):
        estimate(parse_request(body("muon", trainer="transformers")))


def test_the_groups_of_loraplus_are_refused():
    with pytest.raises(PlanError, match="is not modeled with schedule_free_adamw"):
        estimate(parse_request(body("schedule_free_adamw", {"name": "lora"}, loraplus_lr_ratio=16)))


def test_the_file_of_the_states_is_refused():
    request = {**body("schedule_free_adamw", trainer="transformers"), "run": {"save_strategy": "steps"}}
    with pytest.raises(PlanError, match=r"the file of its states is not modeled: set run\.save_only_model true"):
        refusals.check_request(parse_run(request))


def test_torchao_keeps_states_in_about_two_bytes_and_one():
    adam = states("adamw_torch", dtype="float32")
    assert states("adamw_torch_8bit", dtype="float32") / adam == pytest.approx(1 / 4, rel=0.05)
    assert states("adamw_torch_4bit", dtype="float32") / adam == pytest.approx(1 / 8, rel=0.1)


def test_the_numbers_of_both_groups_are_counted_with_a_trainer():
    answer = memory("adamw_torch_4bit", trainer="transformers")
    rows = {row.name: row.bytes for part in answer.components for row in part.rows}
    assert {rows[name] for name in ("lr", "initial_lr", "base_lrs", "last_lr")} == {2 * 512}


def test_muon_keeps_one_state_for_the_matrices_of_layers():
    expected = 2 * 2 * (1000 * 256 * 2 + 7 * 256)
    layers = 3 * (256 * 256 * 2 + 128 * 256 * 2 + 688 * 256 * 3)
    assert states("muon") == pytest.approx(expected + 2 * layers, rel=1e-3)


@pytest.mark.parametrize("optimizer", ["adamw_torch_8bit", "stable_adamw", "muon"])
def test_an_answer_states_what_is_not_traced(optimizer):
    assert set(OPTIMIZERS[optimizer].assumptions) <= set(estimate(parse_request(body(optimizer))).assumptions)


def test_lorafa_trains_and_keeps_states_of_b_only():
    lora = {"name": "lora", "r": 8, "target_modules": ["down_proj"]}
    answer = estimate(parse_request(body("lorafa", lora)))
    rows = {part.name: part.bytes for part in answer.memory.components}
    assert answer.parameters.trainable == 3 * 256 * 8
    assert rows["optimizer_states"] == 2 * 3 * 256 * 8 * 4
    assert rows["adapter_weights"] == 3 * (256 + 688) * 8 * 4


@pytest.mark.parametrize(
    ("method", "more", "reason"),
    [
        ({"name": "full"}, {}, r"training\.optimizer: Full fine-tuning has no A and B: use method lora or qlora"),
        ({"name": "lora", "use_dora": True}, {}, r"method\.use_dora: .* a magnitude is neither: use false"),
        ({"name": "lora", "lora_bias": True}, {}, r"method\.lora_bias: .* a bias of B is neither"),
        ({"name": "lora", "init_lora_weights": "mica"}, {}, r"method\.init_lora_weights: MiCA freezes B"),
        (
            {"name": "lora", "trainable_token_indices": [1]},
            {},
            r"method\.trainable_token_indices: is not modeled with",
        ),
        ({"name": "lora", "target_modules": ["embed_tokens"]}, {}, r"method\.target_modules: .* leave embeddings out"),
        (
            {"name": "lora"},
            {"optimizer_in_bwd": True},
            r"training\.optimizer_in_bwd: LoRA-FA's optimizer needs A and B",
        ),
        ({"name": "lora"}, {"loraplus_lr_ratio": 16}, "is not modeled with lorafa: use adamw_torch"),
        ({"name": "lora"}, {"trainer": "trl-sft"}, r"TrainingArguments\.optim does not have it"),
    ],
)
def test_lorafa_is_refused_if_parameters_are_not_pairs(method, more, reason):
    with pytest.raises(PlanError, match=reason):
        estimate(parse_request(body("lorafa", method, **more)))


def test_galore_keeps_a_projection_and_states_of_its_rank():
    small = states("galore_adamw", optim_target_modules=["q_proj"], optim_args="rank=8")
    matrix, projected = 256 * 256 * 2, 256 * 8 * 2
    assert states("adamw_torch") - small == 3 * (2 * matrix - 3 * projected)


def test_galore_in_float32_keeps_every_singular_vector():
    settings = {"optim_target_modules": ["q_proj"], "optim_args": "rank=8", "dtype": "float32"}
    rows = {row.name: row.bytes for part in memory("galore_adamw", **settings).components for row in part.rows}
    assert rows["model.layers.*.self_attn.q_proj.weight: projector"] == 3 * 256 * 256 * 4


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"optim_args": "rank"}, "rank must be a whole number"),
        ({"optim_args": "rank=0"}, "rank must be a whole number"),
        ({"optim_args": "ranks=8"}, "ranks is not one of rank, update_proj_gap, scale, proj_type: leave it out"),
        ({"optim_args": "proj_type=full"}, "proj_type must be std or reverse_std or left or right"),
        ({"optim_args": "proj=svd"}, "proj is not one of"),
        ({"optim_target_modules": None}, "needs the names of the modules whose gradients it projects"),
        ({"optim_target_modules": ["nowhere"]}, "no linear layer has one of these in its name"),
        ({"optim_target_modules": [".*proj"]}, "regular expressions and numbers of layers are not modeled"),
        ({"optim_target_modules": ["layers.0.mlp"]}, "regular expressions and numbers of layers are not modeled"),
    ],
)
def test_options_of_galore_are_refused_with_a_solution(settings, reason):
    with pytest.raises(PlanError, match=reason):
        estimate(parse_request(body("galore_adamw", **settings)))


def test_adapters_are_refused_with_projections():
    with pytest.raises(PlanError, match="is modeled for full fine-tuning: use method full"):
        estimate(parse_request(body("apollo_adamw", {"name": "lora"})))


@pytest.mark.parametrize("arguments", ["proj_type=left, rank=8", "proj_type=right", "proj_type=reverse_std, proj=svd"])
def test_projections_that_do_not_fit_apollos_factors_of_channels_are_refused(arguments):
    with pytest.raises(PlanError, match=r"factor for each channel of .*: use proj_type=std, or scale_type"):
        estimate(parse_request(body("apollo_adamw", optim_args=arguments)))


@pytest.mark.parametrize("arguments", ["proj_type=left, scale_type=tensor", "proj_type=left, rank=1", "proj_type=std"])
def test_projections_that_fit_apollos_factors_are_accepted(arguments):
    assert estimate(parse_request(body("apollo_adamw", optim_args=arguments)))


@pytest.mark.parametrize("setting", [{"optim_args": "rank=8"}, {"optim_target_modules": "all-linear"}])
def test_options_of_projections_are_refused_with_other_optimizers(setting):
    with pytest.raises(PlanError, match="only the optimizers that project gradients read it"):
        estimate(parse_request(body("adamw_torch", **setting)))


UPDATING = [name for name, optimizer in OPTIMIZERS.items() if optimizer.in_backward]


@pytest.mark.parametrize("optimizer", UPDATING)
def test_no_gradient_is_alive_after_a_backward_pass_that_updates(optimizer):
    answer = estimate(parse_request(body(optimizer)))
    step = next(phase for phase in answer.memory.phases if phase.name == "optimizer_step")
    kept = sum(part.bytes for part in answer.memory.components if part.name in ("base_weights", "optimizer_states"))
    assert step.peak_bytes - kept < 2048
    assert UNCLIPPED in answer.assumptions


def test_lomo_needs_less_than_the_gradients_of_sgd():
    assert memory("lomo").peak_allocated_bytes < 0.75 * memory("sgd").peak_allocated_bytes


def test_the_gradients_of_micro_batches_are_never_together_with_lomo():
    assert memory("lomo", gradient_accumulation_steps=4) == memory("lomo")


def test_released_gradients_are_those_of_one_parameter():
    rows = {component.name: component.bytes for component in memory("adamw_torch", optimizer_in_bwd=True).components}
    assert rows.get("gradients", 0) <= 2 * 1000 * 256
    assert rows["optimizer_states"] == states("adamw_torch")


def test_adalomo_keeps_rows_and_columns_of_frozen_weights_too():
    lora = estimate(parse_request(body("adalomo", {"name": "lora", "r": 8})))
    kept = next(part for part in lora.memory.components if part.name == "optimizer_states")
    frozen = {row.name for row in kept.rows if "lora" not in row.name}
    assert "model.layers.*.mlp.up_proj.weight: exp_avg_sq_row" in frozen


def test_the_states_of_grokadamw_are_in_host_memory():
    found = memory("grokadamw")
    assert found.host_bytes == 3 * 2 * estimate(parse_request(body("grokadamw"))).parameters.trainable
    assert "optimizer_states" not in {part.name for part in found.components if part.bytes}


@pytest.mark.parametrize(
    ("optimizer", "settings", "reason"),
    [
        ("galore_adamw_layerwise", {"gradient_accumulation_steps": 2}, "refuses to accumulate gradients with galore"),
        ("adamw_torch", {"optimizer_in_bwd": True, "gradient_accumulation_steps": 2}, "frees gradients in every"),
        ("adamw_torch", {"optimizer_in_bwd": True, "trainer": "transformers"}, "use false and an optimizer that steps"),
        ("lomo", {"optimizer_in_bwd": True}, "steps in the backward pass by itself"),
        ("galore_adamw", {"optimizer_in_bwd": True}, "use galore_adamw_layerwise"),
        ("muon", {"optimizer_in_bwd": True}, "is two optimizers"),
        ("lomo", {"trainer": "transformers", "autocast": "float16"}, "skips LOMO's backward"),
    ],
)
def test_updates_in_the_backward_pass_are_refused_with_a_solution(optimizer, settings, reason):
    with pytest.raises(PlanError, match=reason):
        estimate(parse_request(body(optimizer, **settings)))


@pytest.mark.parametrize(
    ("optimizer", "method", "reason"),
    [("adalomo", {"name": "qlora"}, "frozen weights too"), ("lomo", {"name": "adalora"}, "reads gradients after")],
)
def test_methods_are_refused_with_updates_in_the_backward_pass(optimizer, method, reason):
    with pytest.raises(PlanError, match=reason):
        estimate(parse_request(body(optimizer, method)))


def test_the_first_step_of_an_optimizer_for_each_parameter_is_refused():
    request = {**body("galore_adamw_layerwise", trainer="transformers"), "run": {"save_strategy": "no"}}
    with pytest.raises(PlanError, match="the first step makes states in its backward pass"):
        refusals.check_request(parse_run(request))


def test_muon_updates_the_matrix_of_a_classifier():
    """Traced with `python -m validation compare`."""
    sizes = {"hidden_size": 512, "intermediate_size": 1162, "num_hidden_layers": 3, "head_dim": 32}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 2}
    config = {"model_type": "seed_oss", "vocab_size": 125_283, "residual_dropout": 0.1, "mlp_bias": True}
    of_model = {"hidden_act": "laplace", "tie_word_embeddings": False, "pad_token_id": 0}
    training = {"micro_batch_size": 2, "sequence_length": 100, "attention": "flash_attention_2", "optimizer": "muon"}
    body = {
        "model": {"config": {**config, **sizes, **heads, **of_model}},
        "task": "seq_cls",
        "method": {"name": "adapter", "bottleneck_size": 128},
    }
    phases = estimate(parse_request({**body, "training": training, "reserved": "rule"})).memory.phases
    assert [phase.peak_bytes for phase in phases] == [159_395_328, 160_162_816, 151_093_760]
