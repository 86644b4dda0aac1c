"""The first layer, told from the one that is run, is what running it too says that it is."""

from dataclasses import replace

import pytest

from calculator.allocator.reserved_rule import by_rule
from calculator.engine import operations as ops
from calculator.estimate.estimate import training_step
from calculator.estimate.request import parse_request
from calculator.estimate.timeline import timeline
from calculator.families import FAMILIES
from calculator.training_step import first_layer_bound
from tests.calculator.random_plans import plans

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


def told(ran):
    """Each phase's peak and what is alive there, and what the allocator reserves."""
    alive = [(peak.phase, peak.bytes, peak.operation, [*peak.alive.kinds().items()]) for peak in ran.peaks()]
    return alive, by_rule(ran, (512, 512))


def let_go(ran):
    """What the run layer keeps for the backward pass and the first does not."""
    rows = ran.run.tape.rows
    return {rows[row][0].removeprefix("model.layers.*.") for row in ran.recording.first.let_go}


def test_telling_the_first_layer_gives_what_running_it_gives():
    ran = [training_step(plan) for plan in plans(11, 400)]
    alone = [each for each in ran if each.recording.first is not None]
    assert len(alone) > 50
    for each in alone:
        assert told(each) == told(each.whole), (each.model.model_type, each.method, each.training)


def test_the_timeline_is_of_every_layer():
    ran = step(lora())
    assert timeline(ran, ran.peaks()) == timeline(ran.whole, ran.whole.peaks())
    assert len({moment.operation for moment in timeline(ran, ran.peaks())()} & {f"layer {n}" for n in range(32)}) == 32


def test_a_first_layer_keeps_nothing_of_its_norm():
    kept = let_go(step(lora()))
    assert kept
    assert all(name.startswith(("input_layernorm: ", "mlp: residual")) for name in kept)


def test_a_factor_is_not_kept_for_the_gradient_of_what_has_none():
    eager = {"attention": "eager"}
    assert {"self_attn: probabilities", "self_attn: query, rotated"} <= let_go(
        step(lora(target_modules=["q_proj"]), eager)
    )
    assert not {"self_attn: probabilities", "self_attn: query, rotated"} & let_go(step(lora(), eager))
    assert "self_attn.q_proj: scale - 1" in let_go(step(lora(use_dora=True)))


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
def test_a_first_layer_that_could_not_be_told_is_run(method, training):
    ran = step(method, training)
    assert ran.recording.first is None
    assert ran.whole is ran


def test_a_first_layer_in_which_the_peak_may_lie_is_run(monkeypatch):
    many_gradients = (lora(r=64, modules_to_save=["q_proj"]), {"micro_batch_size": 2, "sequence_length": 16})
    ran = step(*many_gradients, {"config": SMALL})
    assert ran.recording.first is None
    monkeypatch.setattr(first_layer_bound, "is_below_the_peak", lambda *_: True)
    unchecked = step(*many_gradients, {"config": SMALL})
    assert unchecked.recording.first is not None
    assert told(unchecked) != told(ran)


def test_a_first_layer_is_run_whose_output_is_of_another_dtype_than_its_input(monkeypatch):
    llama = FAMILIES["llama"]

    def widened(context, modules, x):
        return ops.cast(llama.forward.layer(context, modules, x), "float32", "output in float32")

    assert step(lora()).recording.first is not None
    monkeypatch.setitem(FAMILIES, "llama", replace(llama, forward=replace(llama.forward, layer=widened)))
    assert step(lora()).recording.first is None


def test_a_first_layer_is_run_whose_cache_keeps_what_its_graph_does_not():
    method = {"name": "qlora", "r": 24, "target_modules": ["k_proj", "fc_out"], "modules_to_save": ["lm_head"]}
    training = {"sequence_length": 1000, "dtype": "float32", "attention": "eager", "padding": True}
    assert step(method, training, {"config": GPTJ}).recording.first is None


def test_what_is_reserved_is_told_of_every_layer_where_the_first_could_need_more():
    training = {"micro_batch_size": 12, "sequence_length": 2048, "dtype": "float32", "optimizer": "adamw_8bit"}
    method = lora(r=32, target_modules=["o_proj", "qkv_proj"])
    ran = step(method, {**training, "adapter_dtype": "model"}, {"config": PHI3})
    assert dict(first_layer_bound.counts(ran.recording))
    assert by_rule(ran, (512, 512)) == by_rule(ran.whole, (512, 512))
