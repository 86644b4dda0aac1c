import pytest
import torch
from torch.nn import functional

from validation.tracing.emulations.attention import efficient_backward, workspace_bytes
from validation.tracing.emulations.autocast import Autocast
from validation.tracing.emulations.sdpa import Attention, flash_attn_func
from validation.tracing.known_values import KnownValues
from validation.tracing.memory_tracker import EmulatedKernels

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]


class RecordNames(EmulatedKernels):
    """Emulates kernels and records the names of the operations."""

    def __init__(self):
        super().__init__(KnownValues(1))
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name.removeprefix("aten::"))
        return super().__torch_dispatch__(func, types, args, kwargs)


def kernel(
    dtype=torch.bfloat16, kv_heads=8, head_dim=64, mask=None, before_2_14=False, value_dim=None, enable_gqa=True
):
    """The attention kernel that a call runs, forward and backward; checks the gradients' shapes."""
    heads = 8
    shapes = ((heads, head_dim), (kv_heads, head_dim), (kv_heads, value_dim or head_dim))
    q, k, v = (torch.ones(2, h, 48, d, dtype=dtype, device="meta", requires_grad=True) for h, d in shapes)
    with RecordNames() as mode:
        out = Attention(before_2_14=before_2_14)(q, k, v, mask, is_causal=mask is None, enable_gqa=enable_gqa)
        out.sum().backward()
    assert out.shape == (2, heads, 48, value_dim or head_dim)
    assert [t.grad.shape for t in (q, k, v)] == [t.shape for t in (q, k, v)]
    kernels = {
        "_scaled_dot_product_flash_attention": "flash",
        "_scaled_dot_product_efficient_attention": "efficient",
        "_safe_softmax": "math",
    }
    (name,) = {kernels[name] for name in mode.names if name in kernels}
    return name


MASK = torch.ones(2, 1, 48, 48, dtype=torch.bool, device="meta")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "flash"),
        ({"kv_heads": 2}, "flash"),
        ({"head_dim": 36}, "flash"),
        ({"head_dim": 288}, "efficient"),
        ({"head_dim": 64, "value_dim": 32}, "efficient"),
        ({"mask": MASK}, "efficient"),
        ({"mask": MASK, "head_dim": 36}, "math"),
        ({"mask": MASK, "kv_heads": 1, "enable_gqa": False}, "math"),
        ({"kv_heads": 1, "enable_gqa": False}, "math"),
        ({"dtype": torch.float32}, "efficient"),
        ({"dtype": torch.float32, "head_dim": 36}, "efficient"),
        ({"dtype": torch.float32, "kv_heads": 2}, "efficient"),
        ({"dtype": torch.float32, "kv_heads": 2, "before_2_14": True}, "math"),
        ({"dtype": torch.float32, "before_2_14": True}, "efficient"),
    ],
)
def test_the_kernel_is_the_one_that_cuda_runs(options, expected):
    assert kernel(**options) == expected


def test_attention_runs_in_the_autocast_dtype():
    q, k = (torch.ones(1, heads, 48, 64, device="meta") for heads in (8, 2))
    with Autocast(torch.bfloat16), EmulatedKernels(KnownValues(1)):
        assert Attention()(q, k, k, enable_gqa=True).dtype == torch.bfloat16


def test_autocast_casts_the_inputs_of_the_math_kernel_and_nothing_inside_it():
    q = torch.ones(1, 2, 12, 6, device="meta", requires_grad=True)
    mask = torch.ones(1, 1, 12, 12, dtype=torch.bool, device="meta")
    with Autocast(torch.bfloat16), EmulatedKernels(KnownValues(1)):
        out = Attention()(q, q, q, attn_mask=mask)
    product = out.grad_fn.next_functions[0][0].next_functions[0][0]
    assert out.dtype == torch.bfloat16
    assert product._saved_self.dtype == torch.float32


def test_the_flash_attn_package_expects_sequences_before_heads():
    q, k = (torch.ones(2, 48, heads, 36, dtype=torch.float16, device="meta", requires_grad=True) for heads in (8, 2))
    with EmulatedKernels(KnownValues(1)):
        out = flash_attn_func(q, k, k, causal=True)
        out.sum().backward()
    assert (out.shape, k.grad.shape) == (q.shape, k.shape)


def test_the_math_kernel_equals_torchs_attention():
    torch.manual_seed(0)
    q, k = (torch.randn(2, heads, 12, 6) for heads in (4, 2))
    ours = Attention()(q, k, k, is_causal=True, enable_gqa=True)
    assert torch.allclose(
        ours, functional.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True), atol=1e-6
    )


def test_the_math_kernel_broadcasts_a_single_head():
    torch.manual_seed(0)
    q, k = (torch.randn(2, heads, 12, 6) for heads in (4, 1))
    ours = Attention()(q, k, k, is_causal=True)
    assert torch.allclose(ours, functional.scaled_dot_product_attention(q, k, k, is_causal=True), atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "head_dim", "seq", "expected"),
    [
        # One 128×128 block of float32 and a lock of 16 bytes, for each head of each sequence.
        (torch.bfloat16, 128, 128, 2 * 8 * (128 * 128 * 4 + 16)),
        # Blocks of 64×64 for heads up to 64.
        (torch.bfloat16, 64, 128, 2 * 8 * 2 * (64 * 64 * 4 + 16)),
        # float32 uses blocks of 128×64: two per row of a 128-wide head.
        (torch.float32, 128, 128, 2 * 8 * 2 * (128 * 64 * 4 + 16)),
        # Heads too wide for registers accumulate dk and dv too, over 200 // 16 splits of the keys at most.
        (torch.bfloat16, 256, 128, 2 * 8 * (4 * (128 * 64 * 4 + 16) + 2 * 2 * 64 * 256 * 4)),
    ],
)
def test_the_workspace_of_the_memory_efficient_backward(dtype, head_dim, seq, expected):
    query = torch.ones(2, seq, 8, head_dim, dtype=dtype, device="meta")
    assert workspace_bytes(query, query, query) == expected


@pytest.mark.parametrize(("length", "row"), [(32, 32), (40, 48)])
def test_a_trained_bias_has_a_gradient_of_its_expanded_size_with_aligned_rows(length, row):
    heads = torch.empty(2, 4, length, 16, device="meta", dtype=torch.bfloat16)
    bias = torch.empty(1, 4, length, length, device="meta", dtype=torch.bfloat16).expand(2, -1, -1, -1)
    state = torch.empty(()), torch.empty(()), torch.empty(())
    *_, frozen = efficient_backward(heads, heads, heads, heads, bias, heads, *state, 0.0, [True, True, True, False])
    *_, trained = efficient_backward(heads, heads, heads, heads, bias, heads, *state, 0.0, [True] * 4)
    assert frozen is None
    assert (trained.shape, trained.untyped_storage().nbytes()) == (bias.shape, 2 * 4 * length * row * 2)
