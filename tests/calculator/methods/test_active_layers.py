"""BAdam and LISA: which layers the figures are for, what is resident, and what is refused."""

from itertools import combinations

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.methods.full import badam, lisa

LLAMA = {
    "model_type": "llama", "vocab_size": 1000, "hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
TRAINING = {"sequence_length": 128, "micro_batch_size": 2}


def answer(method, model=LLAMA, **fields):
    training = TRAINING | fields.pop("training", {})
    body = {"model": {"config": model}, "method": {"name": "full", **method}, "training": training, **fields}
    return estimate(parse_request(body))


def component(found, name):
    return sum(part.bytes for part in found.memory.components if part.name == name)


def refused(method, **fields):
    with pytest.raises(PlanError) as error:
        answer(method, **fields)
    return {problem.loc: problem.msg for problem in error.value.problems}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [("model.layers.0.",), ("model.layers.1.",)]),
        ({"include_embedding": True}, [("model.embed_tokens.",), ("model.layers.0.",), ("model.layers.1.",)]),
        (
            {"include_lm_head": True},
            [("model.layers.0.",), ("model.layers.1.",), ("model.embed_tokens.weight", "model.norm.weight")],
        ),
    ],
)
def test_blocks_are_formed_as_block_optimizer_forms_them(options, expected):
    names = (
        "model.embed_tokens.weight",
        "model.layers.0.a",
        "model.layers.0.b",
        "model.layers.1.a",
        "model.norm.weight",
    )
    flags = {"include_embedding": False, "include_lm_head": False} | options
    found = badam.blocks(((name, 1) for name in names), **flags)
    assert [block for block, _ in found] == expected
    assert dict(found)[("model.layers.0.",)] == 2


def test_badam_is_estimated_for_the_block_with_the_highest_peak():
    chosen = answer({"use_badam": True}).memory.peak_allocated_bytes
    fixed = {"use_badam": True, "badam_switch_mode": "fixed"}
    peaks = [answer({**fixed, "badam_start_block": n}).memory.peak_allocated_bytes for n in range(4)]
    assert chosen == max(peaks) == peaks[0] > peaks[3]


def test_badam_keeps_copies_and_states_of_one_block_only():
    block = sum(size for _, size in [(0, 128 * 128 * 2 + 64 * 128 * 2 + 128 * 344 * 3 + 2 * 128)])
    assert component(answer({"use_badam": True}), "optimizer_states") == 12 * block
    assert component(answer({"use_badam": True, "badam_switch_interval": 1}), "optimizer_states") == 4 * block


def test_lisa_is_estimated_for_the_layers_with_the_highest_peak(monkeypatch):
    chosen = answer({"lisa_n_layers": 2}).memory.peak_allocated_bytes
    peaks = []
    for drawn in combinations(range(4), 2):
        monkeypatch.setattr(lisa, "chosen", lambda count, model, drawn=drawn: drawn)  # noqa: ARG005
        peaks.append(answer({"lisa_n_layers": 2}).memory.peak_allocated_bytes)
    assert chosen == max(peaks)


def test_lisa_keeps_the_states_of_every_layer_and_the_gradients_of_few():
    full, drawn = answer({}), answer({"lisa_n_layers": 1})
    assert component(drawn, "optimizer_states") == component(full, "optimizer_states")
    assert drawn.memory.peak_allocated_bytes < full.memory.peak_allocated_bytes
    assert answer({"lisa_n_layers": 4}).memory.phases == full.memory.phases


@pytest.mark.parametrize(
    ("method", "fields", "loc", "part"),
    [
        ({"use_badam": True, "badam_mode": "ratio"}, {}, "method.badam_mode", "use layer"),
        ({"use_badam": True, "badam_switch_mode": "fixed"}, {}, "method.badam_start_block", "give its index"),
        ({"use_badam": True, "badam_start_block": 4}, {}, "method.badam_start_block", "use 0 to 3"),
        ({"badam_switch_mode": "fixed"}, {}, "method.badam_switch_mode", "set use_badam"),
        ({"use_badam": True, "lisa_n_layers": 1}, {}, "method.use_badam", "leave lisa_n_layers out"),
        ({"lisa_n_layers": 5}, {}, "method.lisa_n_layers", "has 4 layers"),
        ({"lisa_n_layers": 1, "unfrozen_parameters": ["lm_head"]}, {}, "method.unfrozen_parameters", "leave it out"),
        ({"use_badam": True}, {"training": {"optimizer": "adagrad"}}, "training.optimizer", "KeyError"),
        ({"lisa_n_layers": 1}, {"training": {"optimizer": "lomo"}}, "training.optimizer", "use adamw_torch"),
        ({"use_badam": True}, {"training": {"trainer": "trl-sft"}}, "training.trainer", "with transformers"),
        ({"use_badam": True}, {"device": {"count": 2, "sharding": "ddp"}}, "device.sharding", "device.count 1"),
        ({"lisa_n_layers": 1}, {"device": {"count": 2, "sharding": "ddp"}}, "device.sharding", "find_unused"),
    ],
)  # fmt: skip
def test_what_is_not_modeled_is_refused_with_a_solution(method, fields, loc, part):
    assert part in refused(method, **fields)[loc]


def test_badam_is_refused_if_no_layers_are_found():
    gpt = {"model_type": "gpt2", "vocab_size": 1000, "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 256}
    assert "finds no layers in gpt2" in refused({"use_badam": True}, model=gpt)["method.use_badam"]
