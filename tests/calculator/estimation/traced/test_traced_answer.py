"""The answer made from a small trace that is written by hand."""

import pytest

from calculator.estimation.request import parse_request
from calculator.estimation.traced.answer import traced_estimate
from calculator.estimation.traced.document import Kind, Loaded, Peak, Span, TraceDocument
from calculator.estimation.traced.run import state_of

WEIGHT = Kind("lin.weight", (64, 64), "bfloat16", "base_weights", 8192)
STATE = Kind("lin.weight: exp_avg", (64, 64), "bfloat16", "optimizer_states", 8192)
IDS = Kind("input_ids", (1, 2), "int64", "activations", 512)
OLD_LOSS = Kind("loss", (), "float32", "activations", 512)
OUT = Kind("lin: mm", (2, 64), "bfloat16", "activations", 512)
LOSS = Kind("nll_loss_forward", (), "float32", "logits_and_loss", 512)
GRADIENT = Kind("lin.weight: gradient", (64, 64), "bfloat16", "gradients", 8192)
SCRATCH = Kind("_foreach_sqrt", (64, 64), "bfloat16", "workspace", 8192)
COMPLEX = Kind("lin: polar", (8, 64), "complex64", "activations", 4096)
KINDS = (WEIGHT, STATE, IDS, OLD_LOSS, OUT, LOSS, GRADIENT, SCRATCH, COMPLEX)


def document(**changes):
    """A step of one layer: the old loss is freed when the new one exists."""
    given = {
        "model_type": "new_type",
        "versions": {"torch": "2.13.0"},
        "seconds": 0.1,
        "parameters": {"base": 4096, "added": 0, "trainable": 4096, "total": 4096},
        "saved_bytes": 8192,
        "loaded": (Loaded("lin.weight", (64, 64), "bfloat16", "base_weights", 4096, True, False, 8192),),
        "kinds": KINDS,
        "storages": tuple(range(9)),
        "static": 4,
        # weight, state, ids, old loss | polar, out, loss, old loss freed | gradient, out and polar freed | scratch
        "events": (0, 1, 2, 3, 8, 4, 5, ~3, 6, ~4, ~8, 7, ~7),
        "phase_starts": ((4, "forward"), (8, "backward"), (11, "optimizer_step")),
        "peaks": {
            "forward": Peak(22528, 6, "nll_loss_forward"),
            "backward": Peak(30208, 8, "mm"),
            "optimizer_step": Peak(33792, 11, "_foreach_sqrt"),
        },
        "timeline": (Span("forward", "embeddings", 22528), Span("optimizer_step", "optimizer step", 33792)),
        "operations": ("mm", "polar"),
        "unchecked": (),
        "kernel_packages": {},
        "guesses": (),
    }
    return TraceDocument(**{**given, **changes})


def answered(found, **changes):
    body = {"model": {"config": {"model_type": "new_type"}}, "method": {"name": "full"}, **changes}
    return traced_estimate(parse_request(body), found)


def test_a_document_is_the_same_after_json():
    assert TraceDocument.from_json(document().to_json()) == document()


def test_components_are_what_is_alive_at_the_highest_peak():
    parts = {part.name: part.bytes for part in answered(document()).memory.components}
    assert parts == {
        "base_weights": 8192,
        "gradients": 8192,
        "optimizer_states": 8192,
        "activations": 512,
        "logits_and_loss": 512,
        "workspace": 8192,
    }


def test_a_row_states_its_arithmetic_if_its_dtype_has_a_known_size():
    peaks = {**document().peaks, "forward": Peak(99999, 6, "nll_loss_forward")}
    memory = answered(document(peaks=peaks)).memory
    rows = {row.name: row for part in memory.components for row in part.rows}
    assert rows["lin.weight"].formula == "64 × 64 × 2"
    assert rows["lin: polar"].formula == "4,096"


def test_a_micro_batch_has_its_own_storages_and_its_batch():
    request = parse_request({"model": {"config": {}}, "method": {"name": "full"}})
    first, later = state_of(document(), request.training).micro_batches
    assert (first.forward, first.backward, later) == ([2, 8, 4, 5], [6, ~4, ~8], None)
    assert (first.gradients, first.left) == ([6], [2, 5])


def test_the_optimizer_step_has_its_states_and_its_temporaries():
    request = parse_request({"model": {"config": {}}, "method": {"name": "full"}})
    state = state_of(document(), request.training)
    assert [tensor.bytes for tensor in state.optimizer_states] == [8192]
    assert [temporary.name for temporary in state.step_temporaries] == ["_foreach_sqrt"]


@pytest.mark.parametrize("reserved", ["rule", "replay"])
def test_reserved_memory_is_at_least_the_allocated_memory(reserved):
    memory = answered(document(), reserved=reserved, device={"gpu": "rtx-4090"}).memory
    assert memory.peak_reserved_bytes >= memory.peak_allocated_bytes + memory.library_workspace_bytes
    assert (memory.replay is None) == (reserved == "rule")


@pytest.mark.parametrize(
    ("changes", "grade"),
    [
        ({}, "traced, validated operations only"),
        ({"unchecked": ("convolution",)}, "traced, kernel scratch unchecked"),
        (
            {"unchecked": ("convolution",), "kernel_packages": {"mamba-ssm": ("selective_scan_fn",)}},
            "traced, but a kernel package changes it",
        ),
    ],
)
def test_the_grade_is_the_least_trusted_that_applies(changes, grade):
    answer = answered(document(**changes))
    assert (answer.engine, answer.grade) == ("traced", grade)
    assert all(any(name in line for line in answer.warnings) for name in changes.get("unchecked", ()))


def test_a_quantization_config_is_named_as_ignored():
    config = {"model_type": "new_type", "quantization_config": {"bits": 4}}
    assert any("quantization_config" in line for line in answered(document(), model={"config": config}).warnings)
