import json
from functools import cache

import bitsandbytes as bnb
import pytest
import torch

from calculator.common.dtype import rounded
from calculator.estimation.estimate import training_step
from calculator.estimation.request import parse_request
from tests.paths import CASE_FILES
from validation.comparison import compare
from validation.comparison.cases import differences
from validation.comparison.record import expected as figures
from validation.tracing.trace import trace

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

FILE = CASE_FILES / "public.jsonl"

#: Quick cases that together cover every method, family, optimizer, attention and dtype, and most options.
IDS = [
    "core-029",
    "inner-001",
    "inner-008",
    "wide-008",
    "wide-011",
    "wide-012",
    "wide-030",
    "wide-038",
    "wide-039",
    "wide-041",
    "wide-043",
    "wide-076",
    "wide-080",
    "wide-088",
    "wide-097",
    "wide-099",
    "wide-101",
    "wide-103",
    "wide-113",
    "wide-122",
    "wide-129",
]


@cache
def cases():
    return {case["id"]: case for case in map(json.loads, FILE.read_text().splitlines())}


def request(method, **training):
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 300,
    }
    return parse_request(
        {"model": {"config": config}, "method": method, "training": {"sequence_length": 64, **training}}
    )


@cache
def small(name="lora"):
    return trace(request({"name": name}))


def with_indices_on_the_host(case):
    """A public case's expected figures, corrected for the indices of virtual tokens, which it counts as on the device.

    PEFT creates them on the host (PeftModel.add_adapter) and copies them for every sequence (get_prompt).
    """
    expected, tokens = case["expected"], case["request"]["method"].get("num_virtual_tokens", 0)
    kept = rounded(8 * tokens)
    copied = rounded(8 * tokens * case["request"]["training"]["micro_batch_size"]) if tokens else 0
    added = {"forward": copied, "backward": copied, "optimizer_step": 0}
    phases = {phase: size + added[phase] - kept for phase, size in expected["phases"].items()}
    return {**expected, "phases": phases, "peak_allocated_bytes": max(phases.values())}


@pytest.mark.parametrize("name", IDS)
def test_the_trace_of_a_public_case_is_as_expected_to_the_byte(name):
    case = cases()[name]
    expected = with_indices_on_the_host(case)
    traced = trace(parse_request(case["request"]))
    assert differences(figures(traced), expected) == {}
    assert traced.peak_phase == expected["peak_phase"]
    assert traced.peak_allocated_bytes == expected["peak_allocated_bytes"]


@pytest.mark.parametrize("name", ["core-029", "core-051"])
def test_the_trace_before_torch_2_14_is_as_expected_to_the_byte(name):
    case = cases()[name]
    (older,) = (
        alternative for alternative in case["alternatives"] if alternative["why"].startswith("torch before 2.14")
    )
    traced = trace(parse_request(case["request"]), before_2_14=True)
    assert (traced.phases, traced.static) == (older["phases"], older["static"])


def test_the_cases_cover_every_method_family_optimizer_attention_and_dtype():
    kinds = ("method:", "family:", "optim:", "attention:", "dtype:")
    everything = {tag for case in cases().values() if "phases" in case["expected"] for tag in case["tags"]}
    here = {tag for name in IDS for tag in cases()[name]["tags"]}
    assert {tag for tag in everything - here if tag.startswith(kinds)} == set()


def test_the_storages_alive_at_a_peak_sum_to_it():
    for phase, nbytes in small().phases.items():
        assert sum(storage.bytes for storage in small().alive_at_peak(phase)) == nbytes


def test_every_storage_is_freed_at_most_once_after_its_allocation():
    alive = set()
    for event in small().events:
        if event >= 0:
            assert event not in alive
            alive.add(event)
        else:
            alive.remove(~event)


def test_replaying_the_events_reaches_every_peak():
    sizes = [storage.bytes for storage in small().ledger.storages]
    starts = dict(small().ledger.phase_starts)
    live, phase, peaks = 0, None, {}
    for number, event in enumerate([*small().events, None]):
        phase = starts.get(number, phase)
        if phase:
            peaks[phase] = max(peaks.get(phase, 0), live)
        if event is not None:
            live += sizes[event] if event >= 0 else -sizes[~event]
            if phase:
                peaks[phase] = max(peaks[phase], live)
    assert peaks == small().phases


def test_storages_have_module_operation_moment_and_component():
    rows = {(s.module, s.op, s.moment, s.component) for s in small("full").ledger.storages}
    assert ("model.layers.1.mlp.act_fn", "aten.silu", "forward", "activations") in rows
    assert ("model.layers.1.mlp.down_proj", "aten.mm<MmBackward0>", "backward", "gradients") in rows
    assert ("lm_head", "aten.mm", "forward", "logits_and_loss") in rows
    assert ("", "aten._log_softmax_backward_data<LogSoftmaxBackward0>", "backward", "logits_and_loss") in rows
    assert any(op == "aten._foreach_sqrt" and component == "workspace" for _, op, _, component in rows)


def test_recomputed_storages_are_marked():
    traced = trace(request({"name": "lora"}, gradient_checkpointing=True))
    assert {s.moment for s in traced.ledger.storages} == {"static", "forward", "backward", "recompute", "optimizer"}


def test_re_entrant_checkpoints_are_traced():
    training = {"gradient_checkpointing_kwargs": {"use_reentrant": True}, "gradient_accumulation_steps": 2}
    accumulated = request({"name": "lora"}, gradient_checkpointing=True, **training)
    peaks = [peak.bytes for peak in training_step(accumulated).peaks()]
    assert [*trace(accumulated).phases.values()] == peaks


def test_checkpointing_a_frozen_base_keeps_the_last_embeddings_and_their_gradient_alive():
    traced = trace(request({"name": "lora"}, gradient_checkpointing=True))
    left = [s for s in traced.ledger.storages if s.name.startswith("loss: ")]
    assert [(s.shape, s.dtype) for s in left] == [((1, 64, 64), "bfloat16")] * 2


def test_gradients_are_alive_in_a_second_micro_batch():
    one, more = (trace(request({"name": "full"}, gradient_accumulation_steps=steps)) for steps in (1, 3))
    assert more.phases["forward"] - one.phases["forward"] == one.static["gradients"]


def test_autocast_caches_a_copy_of_each_trainable_weight():
    plain, cast = (
        trace(request({"name": "full"}, dtype="float32", optimizer="sgd", autocast=dtype))
        for dtype in (None, "bfloat16")
    )
    copies = [
        s
        for s in cast.alive_at_peak("forward")
        if s.dtype == "bfloat16" and s.module.endswith("_proj") and s.op == "aten._to_copy" and len(s.shape) == 2
    ]
    assert len(copies) == 3 * 7
    assert "autocast" in cast.emulations[-1]
    assert not any("autocast" in emulation for emulation in plain.emulations)


def test_a_checkpointed_layer_is_recomputed_under_autocast():
    traced = trace(request({"name": "full"}, dtype="float32", autocast="bfloat16", gradient_checkpointing=True))
    again = [s for s in traced.ledger.storages if s.moment == "recompute" and s.op == "aten._to_copy"]
    assert {s.dtype for s in again if s.module.endswith("up_proj")} == {"bfloat16"}


def test_a_code_book_is_counted_even_if_one_is_cached_on_the_cpu():
    config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": 64}
    request = parse_request({"model": {"config": config}, "method": {"name": "qlora"}, "training": {}})
    bnb.functional.quantize_4bit(torch.randn(64, 64), compress_statistics=True)
    assert trace(request).static == compare.estimate(request).static
