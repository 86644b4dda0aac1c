"""A skipped first layer: the figures are those of a step in which it is interpreted."""

from dataclasses import replace

import pytest

from calculator.allocator.reserved_rule import estimate_reserved
from calculator.common.errors import PlanError
from calculator.engine import operations as ops
from calculator.engine.layer_in_place import FirstBackward
from calculator.estimation.estimate import training_step
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from calculator.estimation.timeline import timeline
from calculator.families import FAMILIES
from calculator.training_step import causal_lm, first_layer_bound
from tests.calculator.random_plans import plans
from validation.random_grid.torchtune_requests import random_torchtune_request

LLAMA = "meta-llama/Llama-3.1-8B"
SMALL = {
    "model_type": "llama",
    "vocab_size": 517,
    "hidden_size": 192,
    "intermediate_size": 320,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
SMALL_LLAMA = {"config": {**SMALL, "max_position_embeddings": 4096}}
GPTJ = {
    "model_type": "gptj",
    "vocab_size": 90155,
    "hidden_size": 3920,
    "n_layer": 5,
    "n_head": 49,
    "rotary_dim": 48,
    "n_positions": 8192,
    "attn_pdrop": 0.0,
    "pad_token_id": 3,
}
PHI3 = {
    "model_type": "phi3",
    "hidden_size": 6144,
    "intermediate_size": 27784,
    "num_hidden_layers": 24,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "vocab_size": 151680,
    "sliding_window": 2047,
    "tie_word_embeddings": False,
    "pad_token_id": 32000,
    "eos_token_id": 32000,
    "bos_token_id": 1,
}


def step(method, training=None, model=LLAMA):
    request = parse_request({"model": model, "method": method, "training": training or {}})
    return training_step(request)


def lora(**options):
    return {"name": "lora", "r": 16, "target_modules": "all-linear", **options}


def figures(training):
    """Each phase's peak and what is alive there, and what the allocator reserves."""
    alive = [(peak.phase, peak.bytes, peak.operation, [*peak.alive.kinds().items()]) for peak in training.peaks()]
    return alive, estimate_reserved(training, (512, 512))


def unsaved(training):
    """Tensors that the interpreted layer saves for the backward pass and the first layer does not."""
    rows = training.run.rows
    return {rows[row][0].removeprefix("model.layers.*.") for row in training.recording.first.unsaved}


def test_a_skipped_first_layer_gives_the_figures_of_an_interpreted_one():
    steps = [training_step(plan) for plan in plans(11, 120)]
    skipping = [step for step in steps if step.recording.first is not None]
    assert len(skipping) > 15
    for shortened in skipping:
        prepared = shortened.resident.prepared
        assert figures(shortened) == figures(shortened.with_every_layer), (
            prepared.model.id,
            prepared.method,
            prepared.training,
        )


@pytest.mark.parametrize(("r", "length"), [(8, 2048), (512, 16)])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj"], ["o_proj"]])
def test_a_checkpointed_layer_with_a_gradient_represents_a_first_one_without(r, length, targets):
    training = {"trainer": "torchtune", "adapter_dtype": "model", "sequence_length": length}
    found = step(lora(r=r, target_modules=targets), {**training, "gradient_checkpointing": True}, SMALL_LLAMA)
    assert found.run.copies.bounds_first == (length == 2048 and targets != ["o_proj"])
    assert figures(found) == figures(found.with_every_layer)
    assert timeline(found, found.peaks())() == timeline(found.with_every_layer, found.with_every_layer.peaks())()


def test_the_peak_of_a_checkpointed_first_layer_follows_from_a_layer_with_a_gradient():
    bodies = [
        random_torchtune_request(71306, number, method_name=name) for number in range(40) for name in ("lora", "qlora")
    ]
    derived = 0
    for body in bodies:
        request = parse_request(
            {**body, "reserved": "rule", "training": {**body["training"], "gradient_checkpointing": True}}
        )
        try:
            one = training_step(request, whole=True)
        except PlanError:
            continue
        two = one.with_every_pass
        derived += one.run.copies.bounds_first
        assert two.last.has_first_layer
        assert figures(one) == figures(two), body
        assert timeline(one, one.peaks())() == timeline(two, two.peaks())(), body
    assert derived > 25


def test_a_checkpointed_first_layer_whose_peak_is_not_certain_is_interpreted(monkeypatch):
    training = {"trainer": "torchtune", "adapter_dtype": "model", "gradient_checkpointing": True}
    request = parse_request({"model": SMALL_LLAMA, "method": lora(), "training": training, "reserved": "rule"})
    assert not training_step(request, whole=True).last.has_first_layer
    monkeypatch.setattr(FirstBackward, "peak", lambda *_: None)
    assert training_step(request, SeriesCache(), whole=True).last.has_first_layer


def test_the_timeline_shows_every_layer():
    training = step(lora())
    moments = timeline(training, training.peaks())
    assert moments == timeline(training.with_every_layer, training.with_every_layer.peaks())
    assert {moment.operation for moment in moments()} >= {f"layer {n}" for n in range(32)}


def test_a_first_layer_saves_nothing_for_its_norm():
    names = unsaved(step(lora()))
    assert names
    assert all(name.startswith(("input_layernorm: ", "mlp: residual")) for name in names)


def test_a_factor_is_not_saved_if_the_other_factor_needs_no_gradient():
    eager = {"attention": "eager"}
    names = {"self_attn: probabilities", "self_attn: query, rotated"}
    assert names <= unsaved(step(lora(target_modules=["q_proj"]), eager))
    assert not names & unsaved(step(lora(), eager))
    assert "self_attn.q_proj: scale - 1" in unsaved(step(lora(use_dora=True)))


@pytest.mark.parametrize(
    ("method", "training"),
    [
        ({"name": "full"}, {}),
        (lora(), {"gradient_checkpointing": True}),
        (lora(), {"autocast": "bfloat16", "dtype": "float32"}),
        (lora(target_modules=["up_proj"]), {}),
        ({"name": "prefix"}, {}),
        ({"name": "prompt"}, {}),
        ({"name": "adapter"}, {}),
    ],
    ids=["full", "checkpointed", "autocast", "mlp", "prefix", "prompt", "adapter"],
)
def test_a_first_layer_that_the_next_does_not_determine_is_interpreted(method, training):
    interpreted = step(method, training)
    assert interpreted.recording.first is None
    assert interpreted.with_every_layer is interpreted


def test_a_first_layer_that_may_contain_the_peak_is_interpreted(monkeypatch):
    many_gradients = (lora(r=64, modules_to_save=["q_proj"]), {"micro_batch_size": 2, "sequence_length": 16})
    interpreted = step(*many_gradients, {"config": SMALL})
    assert interpreted.recording.first is None
    monkeypatch.setattr(first_layer_bound, "is_below_peak", lambda *_: True)
    unchecked = step(*many_gradients, {"config": SMALL})
    assert unchecked.recording.first is not None
    assert figures(unchecked) != figures(interpreted)


def test_a_first_layer_with_different_input_and_output_dtypes_is_interpreted(monkeypatch):
    llama = FAMILIES["llama"]

    def widened(context, modules, x):
        return ops.cast(llama.forward.layer(context, modules, x), "float32", "output in float32")

    assert step(lora()).recording.first is not None
    monkeypatch.setitem(FAMILIES, "llama", replace(llama, forward=replace(llama.forward, layer=widened)))
    assert step(lora()).recording.first is None


def test_a_first_layer_whose_cache_keeps_what_its_graph_does_not_is_interpreted():
    method = {"name": "qlora", "r": 24, "target_modules": ["k_proj", "fc_out"], "modules_to_save": ["lm_head"]}
    training = {"sequence_length": 1000, "dtype": "float32", "attention": "eager", "padding": True}
    assert step(method, training, {"config": GPTJ}).recording.first is None


def test_reserved_memory_counts_every_layer_if_the_first_could_need_more():
    training = {"micro_batch_size": 12, "sequence_length": 2048, "dtype": "float32", "optimizer": "adamw_8bit"}
    method = lora(r=32, target_modules=["o_proj", "qkv_proj"])
    skipping = step(method, {**training, "adapter_dtype": "model"}, {"config": PHI3})
    assert first_layer_bound.counts(skipping.run.copies, skipping.run.storages.equal_sizes)
    assert estimate_reserved(skipping, (512, 512)) == estimate_reserved(skipping.with_every_layer, (512, 512))


@pytest.mark.parametrize(
    "method", [{"name": "full"}, lora(), {**lora(), "name": "qlora"}], ids=lambda method: method["name"]
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_under_autocast_one_checkpointed_layer_gives_the_figures_of_two(method, dtype, monkeypatch):
    training = {"autocast": "bfloat16", "gradient_checkpointing": True, "dtype": dtype}
    one = step(method, training)
    monkeypatch.setattr(causal_lm, "_repeats", lambda *_: False)
    two = step(method, training)
    assert (one.run.repetition.start, two.run.repetition.start) == (0, 1)
    assert figures(one) == figures(two)
    assert timeline(one, one.peaks())() == timeline(two, two.peaks())()


def test_a_first_layer_whose_input_has_another_dtype_is_interpreted_by_itself():
    training = {"autocast": "bfloat16", "gradient_checkpointing": True, "trainer": "trl-orpo"}
    assert step({**lora(), "name": "qlora"}, training, "Qwen/Qwen2-72B").run.repetition.start == 1
