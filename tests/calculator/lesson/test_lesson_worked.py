"""The lesson's worked examples: its own numbers, other numbers, and invalid input."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.lesson.chapters import CHAPTERS
from calculator.lesson.practice import PRACTICE
from calculator.lesson.questions import QUESTIONS
from calculator.lesson.table import CLAIMS, Compared, table
from calculator.lesson.worked import accounts, counts
from calculator.lesson.worked.block import LEVELS, Bits, Block, quantized, stored_bits, stored_block
from calculator.lesson.worked.matrices import column, matrix, product
from calculator.lesson.worked.on_model import ON_MODEL
from calculator.lesson.worked.product import Merge, Product, forward, merged, vectors
from calculator.lesson.worked.rounding import bfloat16, float32
from calculator.lesson.worked.spectrum import Spectrum, energy
from calculator.methods import USUAL_METHODS
from calculator.resident import nf4


def of(lines, name):
    (value,) = [line.value for line in lines if line.name == name]
    return value


def test_the_lessons_product_by_hand_is_exact():
    by_name = vectors(Product())
    assert (by_name["W₀x"], by_name["BAx"], by_name["h"]) == ((3, 7), (0.09, 0.12), (3.045, 7.06))


@given(st.lists(st.decimals(-1000, 1000, places=3), min_size=2, max_size=2), st.integers(1, 64))
def test_with_b_zero_the_model_is_unchanged_for_any_a(a, r):
    typed = Product(A=", ".join(str(number) for number in a), B="0; 0", r=r)
    assert vectors(typed)["h"] == vectors(typed)["W₀x"]
    assert of(forward(typed), "change of h, at most") == 0


def test_a_larger_product_is_a_matrix_product():
    by_name = vectors(Product(W="1 0 2; 0 1 0", A="1 2 3; 0 1 0", B="1 0; 2 1", x="1 1 1", lora_alpha=4, r=2))
    assert by_name["Ax"] == (6, 1)
    assert by_name["BAx"] == (6, 13)
    assert by_name["h"] == (3 + 12, 1 + 26)


@pytest.mark.parametrize(
    ("name", "typed", "message"),
    [
        ("W", {"W": "1, 2; 3"}, "rows of 1 and 2 numbers"),
        ("W", {"W": ""}, "numbers in every row"),
        ("W", {"W": "; ".join(["1"] * 9)}, "9 × 1"),
        ("A", {"A": "0.1, abc"}, "'abc'"),
        ("A", {"A": "1, 1/0"}, "'1/0'"),
        ("A", {"A": "1, nan"}, "'nan'"),
        ("A", {"A": "1, 1e300"}, "1e300"),
        ("A", {"A": "0.1, 0.2, 0.3"}, "must be 1 × 2"),
        ("B", {"B": "1; 2; 3"}, "must be 2 × 1"),
        ("x", {"x": "1"}, "must be 2 × 1"),
    ],
)
def test_a_malformed_or_mismatched_matrix_is_refused_at_its_input(name, typed, message):
    with pytest.raises(PlanError) as refused:
        forward(Product(**typed))
    (problem,) = refused.value.problems
    assert problem.loc == name
    assert message in problem.msg


def test_products_are_exact():
    assert product(matrix("0.1, 0.2", ""), column("3, 3", "")) == ((Fraction(9, 10),),)


@pytest.mark.parametrize(("value", "kept"), [("1.015", 1.015625), ("3.02", 3.015625), ("1", 1), ("-1.015", -1.015625)])
def test_bfloat16_keeps_eight_bits(value, kept):
    torch = pytest.importorskip("torch")
    assert float(bfloat16(Fraction(value))) == kept == torch.tensor(float(value)).bfloat16().item()


@given(st.floats(-1e6, 1e6))
def test_rounding_is_that_of_torch(value):
    torch = pytest.importorskip("torch")
    assert float(bfloat16(Fraction(value))) == torch.tensor(value, dtype=torch.float32).bfloat16().item()
    assert float(float32(Fraction(value))) == torch.tensor(value, dtype=torch.float32).item()


def test_merging_loses_only_what_the_format_rounds_off():
    lost = {stored: of(merged(Merge(stored=stored)), "largest difference") for stored in ("float32", "bfloat16", "nf4")}
    assert 0 < lost["float32"] < 1e-6 < lost["bfloat16"] < lost["nf4"]
    exact = Merge(A="0.5, 0.25", B="1; 2", r=1)
    assert of(merged(exact), "largest difference") == 0


def test_a_block_keeps_its_largest_weight_and_rounds_the_rest_to_the_nearest_level():
    block = quantized([0.5, -0.2, 0.01], nf4.levels())
    assert block.weights[0] == 0.5
    for weight, kept in zip([0.5, -0.2, 0.01], block.weights, strict=True):
        assert abs(kept - weight) == min(abs(0.5 * level - weight) for level in nf4.levels())


def test_a_block_of_zeros_stays_zero():
    assert of(stored_block(Block(weights="0, 0")), "error") == 0


def test_the_4_bit_types_have_the_levels_of_bitsandbytes():
    functional = pytest.importorskip("bitsandbytes.functional")
    for name in ("nf4", "fp4"):
        levels = sorted(set(functional.get_4bit_type(name, device="cpu").tolist()))
        assert list(LEVELS[name]) == pytest.approx(levels, abs=1e-6)
    assert len(LEVELS["int4"]) == 15


def test_a_block_of_more_than_64_weights_is_refused():
    with pytest.raises(PlanError, match="65 numbers"):
        stored_block(Block(weights="1 " * 65))


def test_a_block_size_without_a_kernel_is_refused():
    with pytest.raises(PlanError, match="no kernel for blocks of 100: use one of 32, 64"):
        stored_bits(Bits(blocksize=100))


@pytest.mark.parametrize(("double", "bits"), [(True, 4 + 8 / 64 + 32 / (256 * 64)), (False, 4.5)])
def test_bits_per_weight_include_the_constants(double, bits):
    lines = stored_bits(Bits(double_quant=double))
    assert of(lines, "bits per weight") == bits
    assert of(lines, "bits per weight, constants included") == pytest.approx(bits, rel=1e-3)


def test_the_energy_of_a_spectrum_adds_up():
    lines = energy(Spectrum(values="1, 3", r=1))
    assert of(lines, "energy") == 10
    assert of(lines, "share of the energy") == 90
    assert of(lines, "rank for 90 % of the energy") == 1


@pytest.mark.parametrize("values", ["", "0, 0", "-1, 2", "a", "1 " * 65])
def test_an_invalid_spectrum_is_refused(values):
    with pytest.raises(PlanError):
        energy(Spectrum(values=values))


def test_the_lessons_counts_are_reproduced():
    assert of(counts.lora(counts.LoraCount()), "total") == 8_388_608
    assert of(counts.adapter(counts.AdapterCount()), "total") == 33_820_672
    assert of(counts.prefix(counts.PrefixCount()), "total") == 6_553_600
    assert of(counts.prompt(counts.PromptCount()), "total") == 81_920
    assert of(accounts.full(accounts.FullAccount()), "total") == 840 * 10**9
    assert of(accounts.quantized(accounts.QloraAccount()), "total") == 36_006_632_960


def test_a_prefix_with_grouped_queries_has_the_width_of_the_keys():
    lines = counts.prefix(counts.PrefixCount(kv_heads=8))
    assert of(lines, "total") * 4 == of(lines, "by the lesson's formula")


@pytest.mark.parametrize("method", ON_MODEL)
def test_an_example_on_a_model_is_the_calculators_estimate(method):
    worked = ON_MODEL[method]
    typed = worked.settings()
    answer = estimate(parse_request(worked.request(typed)))
    lines = worked.lines(typed)
    assert of(lines, "trained parameters") == answer.parameters.trainable
    assert of(lines, "the step's peak") == answer.memory.peak_allocated_bytes
    assert of(lines, "required of a GPU") == answer.memory.required_bytes


@pytest.mark.parametrize("worked", [w for chapter in CHAPTERS for w in chapter.worked], ids=lambda w: w.title)
def test_every_line_has_a_name_and_a_formula(worked):
    lines = worked.lines(worked.settings())
    assert all(line.name and line.formula for line in lines)
    assert len({line.name for line in lines}) == len(lines) or worked.name == "table"


def test_practice_departs_from_twelve_bytes_a_parameter():
    lines = [line for line in PRACTICE["full"]() if line.unit == "bytes per parameter"]
    assert {line.name: round(line.value, 3) for line in lines} == {
        "bfloat16 throughout: weights, gradients, states": 8,
        "bfloat16 throughout: at the peak": 10,
        "float32 weights under autocast: weights, gradients, states": 16,
        "float32 weights under autocast: at the peak": 20,
    }


def test_each_of_eleven_gpus_needs_more_than_its_part_of_840_gb_if_masters_are_in_float32():
    sharded = {line.name.partition("each: ")[2]: line.value for line in PRACTICE["full"]() if line.unit == "bytes"}
    part = 840 * 10**9 / 11
    assert sharded["FSDP2, bf16 throughout"] < part < sharded["ZeRO-3, bf16 with float32 masters"]
    assert sharded["ZeRO-3, bf16 with float32 masters"] < sharded["FSDP2, bf16 with float32 masters"]


def test_the_lessons_70b_run_needs_more_than_the_lesson_counts():
    values = {line.name: line.value for line in PRACTICE["qlora"]()}
    assert values["base model, including what is not in 4 bits"] > 35 * 10**9
    assert values["weights of A and B"] == 4 * 262_144_000
    assert values["as loaded: the step's peak"] < values["prepared for k-bit training: the step's peak"]
    assert values["as loaded: the step's peak"] > 24 * 10**9
    assert values["LoRA on GPT-2: the step's peak"] < values["QLoRA on GPT-2: the step's peak"]


def test_a_prefix_needs_more_memory_than_lora():
    lora, prefix, counted, grouped = (line.value for line in PRACTICE["prefix"]())
    assert lora < prefix
    assert counted == 4 * grouped


def test_a_long_prompt_needs_more_memory_than_lora():
    lora, short, long = (line.value for line in PRACTICE["prompt"]())
    assert short < lora < long


def test_the_table_has_a_claim_and_an_estimate_for_every_method():
    rows = table(Compared())
    assert tuple(row.row.method.name for row in rows) == USUAL_METHODS
    assert {row.row.method.name for row in rows if row.claim} == CLAIMS.keys()
    assert all(row.estimate for row in rows)
    costs = {row.row.method.name: [cost.name for cost in row.overhead] for row in rows}
    per_token = ["operations_per_token", "bytes_read_per_token"]
    assert costs.pop("full") == []
    assert [costs.pop(name) for name in ("lora", "qlora", "adapter", "ia3")] == [per_token] * 4
    assert [costs.pop(name) for name in ("prefix", "prompt")] == [[*per_token, "kv_cache_bytes"]] * 2


def test_a_refused_method_shows_the_nearest_plan():
    rows = {row.row.method.name: row for row in table(Compared(gradient_checkpointing=True))}
    assert rows["prefix"].row.estimate is None
    assert rows["prefix"].estimate.memory.required_bytes > rows["lora"].estimate.memory.required_bytes


def test_every_example_and_problem_links_to_a_chapter():
    assert [question.name for question in QUESTIONS] == [
        *(f"example-{i}" for i in (1, 2, 3)),
        *(f"problem-{i}" for i in (1, 2, 3, 4, 5)),
    ]
    assert all(question.figures or question.lines for question in QUESTIONS)
    assert {question.chapter for question in QUESTIONS} <= {chapter.name for chapter in CHAPTERS}
