"""Formulas become MathML that a parser accepts."""

from xml.etree import ElementTree as ET

import pytest

from app.presentation.mathml import math, matrix


def tree(text):
    return ET.fromstring(str(math(text)))


def text_of(text):
    """The visible text of a formula, without the times that only listeners hear."""
    return "".join(tree(text).itertext()).replace("\u2062", "")


def test_letters_are_variables_and_numbers_are_numbers():
    assert str(math("N = 4,096.5")) == "<math><mi>N</mi><mo>=</mo><mn>4,096.5</mn></math>"


def test_a_block_is_in_a_box_that_scrolls():
    box = '<span class="formula-box"><math display="block"><mi>x</mi></math></span>'
    assert str(math("x", block=True)) == box


def test_factors_are_joined_by_an_invisible_times():
    assert str(math("B A")) == "<math><mi>B</mi><mo>&#x2062;</mo><mi>A</mi></math>"
    assert str(math("r (d + k)")).startswith("<math><mi>r</mi><mo>&#x2062;</mo><mrow><mo>(</mo>")
    assert "".join(tree("(a) (b) c").itertext()) == "(a)\u2062(b)\u2062c"
    assert "\u2062" not in "".join(tree("a + b, c").itertext())


def test_a_function_is_applied_and_not_multiplied():
    assert "".join(tree(r"σ \apply (W x)").itertext()) == "σ\u2061(W\u2062x)"


def test_subscripts_and_superscripts_are_rendered():
    assert [child.tag for child in tree("W_0 + x^2 + y_i^{n+1}")] == ["msub", "mo", "msup", "mo", "msubsup"]


def test_a_fraction_has_what_is_above_and_what_is_below():
    (fraction,) = tree(r"\frac{α}{r + 1}")
    assert ["".join(part.itertext()) for part in fraction] == ["α", "r+1"]


@pytest.mark.parametrize(("text", "tag"), [(r"\sqrt{r}", "msqrt"), (r"\hat{w}", "mover"), (r"\ceil{n}", "mrow")])
def test_roots_hats_and_ceilings_hold_their_part(text, tag):
    assert tree(text)[0].tag == tag


def test_words_and_long_names_are_not_split():
    assert [(child.tag, child.text) for child in tree(r"2 'kv_dim' \text{ bytes each}")][2:] == [
        ("mi", "kv_dim"),
        ("mtext", " bytes each"),
    ]


def test_brackets_are_grouped_with_what_is_between_them():
    assert [child.tag for child in tree(r"(a + [b]) \frac{c}{d} e")] == ["mrow", "mo", "mfrac", "mo", "mi"]
    assert [child.tag for child in tree("(A x)^T")] == ["msup"]


def test_a_hyphen_is_a_minus():
    assert text_of("a - 1") == "a−1"


def test_signs_that_html_knows_are_escaped():
    assert text_of(r"a < b \text{ & c}") == "a<b & c"
    assert "&lt;" in str(math("a < b"))


@pytest.mark.parametrize("text", ["x_", "{a", "a}", "a # b", r"\frac{a}", r"\sine", "_2", "(a", "a)", "(a]^)"])
def test_text_that_is_no_formula_is_refused(text):
    with pytest.raises(ValueError, match=r"has|ends"):
        math(text)


def test_a_matrix_has_its_rows_and_signs():
    rows = ET.fromstring(str(matrix(((1.0, -0.5), (3.045, 7.06))))).find("math/mrow/mtable")
    assert [["".join(cell.itertext()) for cell in row] for row in rows] == [["1", "−0.5"], ["3.045", "7.06"]]
