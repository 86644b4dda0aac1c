import pytest
import torch
from torch.nn import functional

from validation.tracing.emulations import EMULATIONS, KERNELS
from validation.tracing.emulations.experts import grouped_mm
from validation.tracing.emulations.functional import dropout, safe_softmax, softmax
from validation.tracing.known_values import KnownValues
from validation.tracing.ledger import Ledger
from validation.tracing.memory_tracker import MemoryTracker
from validation.tracing.module_tracker import ModuleTracker
from validation.tracing.shims import patched_model_code

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]


def storages(run):
    """The allocations of a call, in order: (bytes, component, whether alive afterwards)."""
    ledger = Ledger()
    tracker = MemoryTracker(ledger, ModuleTracker(torch.nn.Identity(), ""), None, KnownValues(1))
    tracker.enter("forward")
    with tracker.tracking():
        kept = run()
    alive = {s.number for s in ledger.alive_after(len(ledger.events))}
    del kept
    return [(s.nbytes, s.component, s.number in alive) for s in ledger.storages]


def test_dropout_saves_a_boolean_mask():
    x = torch.ones(64, 64, dtype=torch.bfloat16, device="meta", requires_grad=True)
    assert [nbytes for nbytes, _, alive in storages(lambda: dropout(x, 0.1)) if alive] == [64 * 64 * 2, 64 * 64]


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.1, False)])
def test_dropout_that_drops_nothing_allocates_nothing(p, training):
    x = torch.ones(64, 64, device="meta")
    assert dropout(x, p, training) is x


def test_a_float16_softmax_to_float32_does_not_copy_its_input():
    x = torch.ones(64, 64, dtype=torch.float16, device="meta")
    assert [nbytes for nbytes, _, _ in storages(lambda: softmax(x, -1, dtype=torch.float32))] == [64 * 64 * 4]


def test_the_safe_softmax_is_0_in_masked_rows():
    x = torch.randn(3, 5)
    x[1] = float("-inf")
    expected = functional.softmax(x, -1)
    expected[1] = 0
    assert torch.equal(safe_softmax(x, -1), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [((96, 16), (4, 16, 24), (96, 24)), ((16, 96), (96, 24), (4, 16, 24)), ((4, 8, 16), (4, 16, 24), (4, 8, 24))],
)
def test_a_grouped_product_has_one_output(a, b, expected, dtype):
    offsets = torch.ones(4, dtype=torch.int32, device="meta") if len(a) != 3 or len(b) != 3 else None
    out = grouped_mm(*(torch.ones(shape, dtype=dtype, device="meta") for shape in (a, b)), offsets)
    assert (out.shape, out.dtype) == (expected, dtype)


def test_the_rows_of_a_grouped_product_are_padded_to_16_bytes():
    a, b = torch.ones(6, 8, device="meta"), torch.ones(2, 8, 5, device="meta")
    assert grouped_mm(a, b, torch.ones(2, device="meta")).stride() == (8, 1)


def four_bit(nested, n=64, k=128):
    """A function that multiplies 256 tokens with a 4-bit (n, k) weight in blocks of 64."""
    x = torch.ones(256, k, dtype=torch.bfloat16, device="meta")
    packed = torch.ones(n * k // 2, 1, dtype=torch.uint8, device="meta")
    blocks = n * k // 64
    scales = torch.ones(blocks, device="meta")
    constants = {}
    if nested:
        scales = torch.ones(1, device="meta")
        constants = {
            "absmax_8bit": torch.ones(blocks, dtype=torch.uint8, device="meta"),
            "absmax_code": torch.ones(256, device="meta"),
            "absmax_offset": torch.ones((), device="meta"),
        }
    return lambda: torch.ops.bitsandbytes.gemm_4bit(x, packed, [n, k], scales, 64, "nf4", **constants)


def test_a_4_bit_product_dequantizes_its_weight_during_the_product():
    weight, output = storages(four_bit(nested=False))
    assert weight == (64 * 128 * 2, "workspace", False)
    assert (output[0], output[1] == "workspace", output[2]) == (256 * 64 * 2, False, True)


def test_a_4_bit_product_dequantizes_its_constants_first():
    scratch = [nbytes for nbytes, component, _ in storages(four_bit(nested=True)) if component == "workspace"]
    assert scratch == [128 * 4, 128 * 4, 64 * 128 * 2]


def test_emulations_are_described_once():
    assert len(EMULATIONS) == len(set(EMULATIONS))
    assert all(callable(kernel) for kernel in KERNELS.values())


def test_a_tensor_made_from_a_number_is_tracked():
    with patched_model_code():
        tracked = storages(lambda: torch.tensor(-1.0, dtype=torch.bfloat16, device="meta"))
    assert [(size, alive) for size, _, alive in tracked] == [(2, True)]
