"""Textbook accounting, and every figure of the lesson with its section as source."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calculator.common.errors import PlanError
from calculator.comparison.methods import compare, parse_comparison
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.estimation.textbook import (
    accounting,
    adapter_parameters,
    compression,
    fewest_gpus,
    lora_parameters,
    prefix_parameters,
    prompt_parameters,
)
from calculator.lesson import LESSON, Figure
from calculator.limit_search.limits import limit, parse_limit
from calculator.limit_search.sweep import answers, parse_sweep
from calculator.resident import nf4

LLAMA_2_7B = 6_738_415_616


def figure(section: str, claim: str) -> Figure:
    (found,) = [f for f in LESSON if f.section.startswith(section) and f.claim == claim]
    return found


@pytest.mark.parametrize(("parameters", "total"), [(70 * 10**9, 840 * 10**9), (7 * 10**9, 84 * 10**9)])
def test_full_fine_tuning_takes_twelve_bytes_a_parameter(parameters, total):
    assert accounting(base=parameters, added=0, trainable=parameters).bytes == total


def test_llama_2_7b_in_full_takes_twelve_bytes_for_each_of_its_parameters():
    assert accounting(base=LLAMA_2_7B, added=0, trainable=LLAMA_2_7B).bytes == 80_860_987_392


def test_lora_adds_twelve_bytes_for_each_of_its_own_parameters():
    added = 32 * 4 * lora_parameters(4096, 4096, 8)
    assert accounting(base=LLAMA_2_7B, added=added, trainable=added).bytes == 13_577_494_528


def test_the_parts_of_a_full_run_are_the_lessons():
    parts = accounting(base=70 * 10**9, added=0, trainable=70 * 10**9).components
    assert [(part.name, part.bytes) for part in parts] == [
        ("base_weights", 140 * 10**9),
        ("gradients", 140 * 10**9),
        ("optimizer_states", 560 * 10**9),
    ]


def test_four_bit_weights_need_exactly_half_a_byte_and_the_rest_of_the_base_two():
    part = accounting(base=1_000, added=0, trainable=0, quantized=800).base_weights
    assert part.bytes == 400 + 400
    assert part.substituted == "800 × 0.5 + 200 × 2"


def test_an_odd_number_of_four_bit_weights_fills_its_last_byte():
    assert accounting(base=3, added=0, trainable=0, quantized=3).bytes == 2


@given(st.integers(1, 10**12), st.integers(0, 10**9))
def test_the_parts_sum_to_the_total(base, added):
    run = accounting(base=base, added=added, trainable=added)
    assert run.bytes == sum(part.bytes for part in run.components) == 2 * base + 12 * added


def test_a_lora_update_has_r_times_d_plus_k_parameters():
    assert lora_parameters(1024, 4096, 16) == 65_536 + 16_384 == 81_920


def test_a_lora_update_of_problem_1_is_51_point_2_times_smaller_than_its_matrix():
    assert compression(1024, 4096, 16) == 51.2


def test_an_adapter_has_two_projections_with_biases():
    assert adapter_parameters(4096, 64) == 2 * 4096 * 64 + 64 + 4096
    assert 2 * 32 * adapter_parameters(4096, 64) == 33_820_672


@pytest.mark.parametrize(("p", "d", "L", "parameters"), [(10, 1024, 24, 491_520), (20, 4096, 40, 6_553_600)])
def test_a_prefix_has_keys_and_values_in_every_layer(p, d, L, parameters):
    assert prefix_parameters(p, d, L) == parameters


def test_a_prompt_has_one_embedding_a_token():
    assert prompt_parameters(20, 4096) == 81_920


def test_840_gb_need_eleven_gpus_of_80_gb():
    assert fewest_gpus(840 * 10**9, 80 * 10**9) == 11
    assert fewest_gpus(80 * 10**9, 80 * 10**9) == 1


FIGURES = [
    ("1.", "70B parameters in fp16", 140),
    ("1.", "their gradients in fp16", 140),
    ("1.", "Adam's m in fp32", 280),
    ("1.", "Adam's v in fp32", 280),
    ("1.", "full fine-tuning of 70B with Adam", 840),
    ("1.", "A100 80GB GPUs for that memory", 11),
    ("3.", "70B in NF4", 35),
    ("3.", "FP16 optimizer states", 560),
    ("3.", "LoRA parameters, r = 64", 0.16777216),
    ("3.", "LoRA optimizer states", 0.67108864),
    ("3.", "QLoRA in total", 35.8388608),
    ("3.", "reduction against full fine-tuning", 840 / 35.8388608),
    ("3.", "a single 24 GB GPU can fine-tune a 70B model", 36.00663296),
    ("4.", "two adapters a layer: d 4096, r 64, L 32", 33.820672),
    ("5.", "prefix on GPT-2 Medium: p 10, d 1024, L 24", 491.52),
    ("Example 1", "r 8 on one 4096 × 4096 matrix", 65_536),
    ("Example 1", "on Q, K, V, O of 32 layers", 8_388_608),
    ("Example 1", "share of 7B", 0.8388608 / 7),
    ("Example 2", "13B in NF4", 6.5),
    ("Example 2", "LoRA and optimizer, r 16", 26_214_400 * 12 / 10**9),
    ("Example 2", "total, batch 1", 7.3145728),
    ("Example 2", "left on a 24 GB GPU", 16.6854272),
    ("Example 2", "r 256 on the 13B model", 419.4304),
    ("Example 2", "memory for r 256", 419_430_400 * 12 / 10**9),
    ("Example 2", "total with r 256 stays under", 12.0331648),
    ("Example 3", "first component of W₀x", 3),
    ("Example 3", "second component of W₀x", 7),
    ("Example 3", "first component of BAx", 0.09),
    ("Example 3", "second component of BAx", 0.12),
    ("Example 3", "first component", 3.045),
    ("Example 3", "second component", 7.06),
    ("Example 3", "change of the first component", 1.5),
    ("Problem 1", "A with r 16, for W 1024 × 4096", 65_536),
    ("Problem 1", "B", 16_384),
    ("Problem 1", "W 1024 × 4096, r 16", 81_920),
    ("Problem 1", "compression", 51.2),
    ("Problem 2", "largest change of W₀x with B = 0 and A = 0.1, 0.2", 0),
    ("Problem 2", "largest change of W₀x with B = 0 and A = -3, 1e5", 0),
    ("Problem 2", "largest change of W₀x with B = 0 and A = 0, 0", 0),
    ("Problem 3", "LoRA parameters in 16 bits; their gradients need the same", 0.16777216),
    ("Problem 3", "Adam's states of the LoRA parameters", 0.67108864),
    ("Problem 3", "inference: 35 GB and one dequantized layer", 35 + 2 * 855_638_016 / 10**9),
    ("Problem 3", "training with 2 GB of activations", 38.00663296),
    ("Problem 3", "training with 3 GB of activations", 39.00663296),
    ("Problem 3", "A100 80GB GPUs for full fine-tuning", 11),
    ("Problem 5", "prefix p 20, d 4096, L 40", 6_553_600),
    ("Problem 5", "share of 13B", 6_553_600 / 13e9 * 100),
]


@pytest.mark.parametrize(("section", "claim", "exact"), FIGURES)
def test_a_figure_of_the_lesson_is_exact(section, claim, exact):
    assert figure(section, claim).exact == pytest.approx(exact, rel=1e-12)


def test_every_figure_of_the_lesson_is_tested():
    tested = {(section, claim) for section, claim, _ in FIGURES}
    untested = [f.claim for f in LESSON if not any(f.section.startswith(s) and f.claim == c for s, c in tested)]
    assert untested == [f.claim for f in LESSON if "Gaussian" in f.claim]


@pytest.mark.parametrize("figure", [f for f in LESSON if not f.holds], ids=lambda f: f.claim)
def test_a_figure_that_is_wrong_has_a_remark(figure):
    assert figure.remark


def test_the_figures_that_do_not_hold_are_these():
    assert [f.claim for f in LESSON if not f.holds] == [
        "LoRA optimizer states",
        "a single 24 GB GPU can fine-tune a 70B model",
        "share of a Gaussian in each of NF4's 16 bins: the smallest",
        "share of a Gaussian in each of NF4's 16 bins: the largest",
        "two adapters a layer: d 4096, r 64, L 32",
        "r 256 on the 13B model",
        "memory for r 256",
        "total with r 256 stays under",
        "Adam's states of the LoRA parameters",
    ]


def test_rank_64_on_the_attention_of_a_70b_model_has_262_million_parameters():
    assert "262,144,000" in str(figure("3.", "LoRA parameters, r = 64").remark)


def test_nf4_levels_are_those_of_bitsandbytes():
    published = (
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    )  # bitsandbytes 0.50.2, functional.get_4bit_type("nf4")
    assert nf4.levels() == published


def test_nf4_bins_hold_nearly_but_not_exactly_equal_shares_of_a_gaussian():
    masses = nf4.bin_masses()
    assert sum(masses) == pytest.approx(1)
    assert min(masses) == pytest.approx(0.0557, abs=5e-5)
    assert max(masses) == pytest.approx(0.0710, abs=5e-5)


SEVENTY = {"model": {"parameters": 70 * 10**9}, "method": {"name": "full"}, "accounting": "textbook"}
GPT2 = {"model": "gpt2", "method": {"name": "lora"}, "accounting": "textbook"}


@pytest.mark.parametrize(
    ("device", "refused"),
    [
        ({"count": 11, "sharding": "zero3"}, ["device.sharding", "device.count"]),
        ({"count": 11}, ["device.count"]),
        ({"sharding": "ddp"}, ["device.sharding"]),
    ],
)
def test_several_gpus_are_refused_as_in_the_exact_accounting(device, refused):
    device = {"gpu": "a100-sxm4-80gb", **device}
    requests = (
        lambda: estimate(parse_request({**SEVENTY, "device": device})),
        lambda: estimate(parse_request({**GPT2, "device": device})),
        lambda: limit(parse_limit({**GPT2, "device": device, "solve_for": "r"})),
        lambda: compare(parse_comparison({"model": "gpt2", "accounting": "textbook", "device": device})),
    )
    for answer in requests:
        with pytest.raises(PlanError) as refusal:
            answer()
        assert [problem.loc for problem in refusal.value.problems] == refused
    (row,) = answers(parse_sweep({"request": {**GPT2, "device": device}, "grid": {"method.r": [8]}}))
    assert [problem.loc for problem in row.problems] == refused


def test_a_remark_names_what_the_components_leave_out():
    answer = estimate(parse_request({**SEVENTY, "device": {"gpu": "a100-sxm4-80gb"}}))
    left_out = [line for line in answer.assumptions if "leaves out" in line]
    on_top = [line for line in answer.assumptions if "are in required_bytes" in line]
    assert answer.memory.required_bytes > answer.memory.peak_allocated_bytes == 840 * 10**9
    assert [part.name for part in answer.memory.overheads if part.bytes] == [
        "cuBLAS workspace, forward thread",
        "cuBLAS workspace, backward thread",
        "caching allocator, fragmentation",
        "CUDA context",
    ]
    for named in ("workspaces", "segments", "CUDA context"):
        assert [named in line for line in (*left_out, *on_top)] == [False, True]


def test_a_run_that_needs_several_gpus_needs_sharding():
    (large,) = estimate(parse_request({**SEVENTY, "device": {"gpu": "a100-sxm4-80gb"}})).warnings
    assert "GPUs are enough only if the run is sharded" in large
    small = {**SEVENTY, "model": {"parameters": 10**9}, "device": {"gpu": "a100-sxm4-80gb"}}
    assert estimate(parse_request(small)).warnings == ()
