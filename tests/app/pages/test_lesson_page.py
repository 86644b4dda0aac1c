"""The lesson's pages show the calculator's figures for the reader's inputs, and keep what is typed on errors."""

import random
import re
from html import unescape
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

import pytest

from app.pages.lesson.experiments import proven
from app.pages.lesson.form import BY_NAME, defaults, fields_of
from app.presentation.format import plain
from app.presentation.mathml import math
from calculator.lesson import LESSON
from calculator.lesson.chapters import CHAPTERS
from calculator.lesson.questions import QUESTIONS
from calculator.methods import METHODS, USUAL_METHODS
from calculator.resident import nf4

NAMES = [chapter.name for chapter in CHAPTERS]


def text_of(client, address):
    return unescape(client.get(f"/lesson{address}").text)


def test_every_page_links_to_the_lesson_and_the_lesson_to_every_chapter(client):
    for address in ("/", "/plan", "/validation", "/docs"):
        assert '<a href="/lesson">Lesson</a>' in client.get(address).text
    text = text_of(client, "")
    assert all(f'href="/lesson/{name}"' in text for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_chapter_has_its_formulas_its_examples_and_its_neighbors(client, name):
    response = client.get(f"/lesson/{name}")
    assert response.status_code == 200
    chapter, text = BY_NAME[name], response.text
    for formula in chapter.formulas:
        assert all(str(math(clause, block=True)) in text for clause in formula.clauses)
    for worked in chapter.worked:
        assert f'action="/lesson/{name}#{worked.name}"' in text
        for field in fields_of(worked):
            assert text.count(f'id="{field.name}"') == 1
            assert f'for="{field.name}"' in text
    assert f'href="/lesson/{name}" aria-current="page"' in text
    assert len(re.findall(r'rel="(?:prev|next)"', text)) == (1 if name in (NAMES[0], NAMES[-1]) else 2)


@pytest.mark.parametrize("name", NAMES)
def test_every_formula_is_mathml_that_a_parser_reads(client, name):
    found = re.findall(r"<math.*?</math>", client.get(f"/lesson/{name}").text, re.DOTALL)
    assert found or not BY_NAME[name].formulas
    for element in found:
        assert ET.fromstring(element).tag == "math"


def test_every_figure_of_the_lesson_is_shown_next_to_ours(client):
    shown = "".join(text_of(client, f"/{name}") for name in NAMES)
    for figure in LESSON:
        assert figure.claim in shown
        assert f'<data value="{figure.exact}">{plain(figure.exact)}' in shown, figure.claim
        assert not figure.remark or figure.remark in shown


def test_the_contents_name_the_figures_that_do_not_hold(client):
    text = text_of(client, "")
    departing = [figure for figure in LESSON if not figure.holds]
    assert f"the lesson's {len(LESSON)} figures, {len(LESSON) - len(departing)} hold" in text
    assert all(figure.remark in text for figure in departing)


@pytest.mark.parametrize("name", NAMES)
def test_the_figures_of_the_page_are_those_of_its_json(client, name):
    answer = client.get(f"/lesson/{name}.json").json()
    text = text_of(client, f"/{name}")
    assert [example["name"] for example in answer["examples"]] == [worked.name for worked in BY_NAME[name].worked]
    for line in [line for example in answer["examples"] for line in example["lines"]] + answer["practice"]:
        if name != "comparison":
            assert line["name"] in text
            assert line["substituted"] in text
        if line["unit"] in ("bytes", "parameters", "GPUs") and name != "comparison":
            assert f'<data value="{line["value"]}"' in text


def test_other_numbers_have_other_answers(client):
    address = "/lora?count-d=1024&count-r=16&count-matrices=1&count-layers=1"
    text = text_of(client, address)
    assert '<data value="81920">81,920 parameters</data>' in text
    assert '<data value="51.2">51.2 ×</data>' in text
    lines = client.get("/lesson/lora.json?count-d=1024&count-r=16&count-matrices=1&count-layers=1").json()
    assert {line["name"]: line["value"] for line in lines["examples"][0]["lines"]}["total"] == 81_920


def test_one_example_keeps_what_is_typed_into_the_others(client):
    text = text_of(client, "/lora?count-r=64&forward-B=0; 0")
    forms = re.findall(r'<form class="try".*?</form>', text, re.DOTALL)
    assert '<input type="hidden" name="count-r" value="64">' in forms[1]
    assert '<input type="hidden" name="forward-B" value="0; 0">' in forms[0]
    assert 'type="hidden" name="count-r"' not in forms[0]


def test_an_example_on_a_model_links_to_the_estimate_of_the_same_run(client):
    link = re.search(r'href="(/\?[^"]*)">The full estimate of this run', text_of(client, "/qlora"))[1]
    planned = client.get(f"/estimate.json{link[1:]}").json()["memory"]
    lines = client.get("/lesson/qlora.json").json()["examples"][1]["lines"]
    assert {line["name"]: line["value"] for line in lines}["the step's peak"] == planned["peak_allocated_bytes"]


WRONG = {"count-r": "0", "count-d": "many", "forward-A": "0.1, abc", "model-model": "no-such-model"}


def test_wrong_input_is_a_422_with_a_summary_that_links_to_each_field(client):
    response = client.get("/lesson/lora", params=WRONG)
    assert response.status_code == 422
    assert "<title>Error: LoRA" in response.text
    for worked in BY_NAME["lora"].worked:
        assert f'<a href="#{worked.name}">{worked.title}</a>' in response.text
    for name in WRONG:
        assert f'<a href="#{name}">' in response.text
        assert re.search(rf'id="{name}"[^>]*aria-invalid="true"', response.text), name
        assert re.search(rf'id="{name}-error"[^>]*><span class="visually-hidden">Error: </span>.+', response.text)


def test_everything_typed_is_kept_and_escaped(client):
    typed = {**WRONG, "forward-x": '"><script>alert(1)'}
    text = client.get("/lesson/lora", params=typed).text
    assert 'value="0.1, abc"' in text
    assert 'value="no-such-model"' in text
    assert 'value="many"' in text
    assert "<script>alert" not in text


def test_the_json_page_refuses_wrong_input_and_settings_without_an_input(client):
    for query, loc in (("count-r=0", "count-r"), ("rank=8", "rank"), ("forward-B=1", "forward-B")):
        response = client.get(f"/lesson/lora.json?{query}")
        assert response.status_code == 422
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["errors"][0]["loc"] == loc
    assert "address also contains rank" in text_of(client, "/lora?rank=8")


@pytest.mark.parametrize("address", ["/lesson/nothing", "/lesson/nothing.json"])
def test_a_chapter_that_is_not_there_is_a_404(client, address):
    assert client.get(address).status_code == 404


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
def test_no_text_causes_a_server_error(client, chapter):
    """Each text in every input, and in each input one text, drawn."""
    texts, chance = ("", "x" * 300, "é\x00", "1e400", ",", "-1", "9" * 30), random.Random(chapter.name)
    typed = [dict.fromkeys(defaults(chapter), text) for text in texts]
    typed += [{name: chance.choice(texts)} for name in defaults(chapter)]
    for text in typed:
        assert client.get(f"/lesson/{chapter.name}", params=text).status_code in (200, 422), text


def test_the_levels_of_nf4_are_in_a_chart_and_in_a_table(client):
    text = text_of(client, "/quantisation")
    for level, share in zip(nf4.levels(), nf4.bin_masses(), strict=True):
        assert plain(level) in text
        assert f'<data value="{share}">' in text


def test_every_cell_of_the_comparison_is_computed_or_has_its_source(client):
    text = text_of(client, "/comparison")
    rows = re.search(r'<table class="stacked comparison">.*?</table>', text, re.DOTALL)[0].split("<tr>")[2:]
    assert len(rows) == len(USUAL_METHODS)
    for row, cls in zip(rows, map(METHODS.get, USUAL_METHODS), strict=True):
        trainable, memory, inference, mergeable, best = re.findall(r"<td.*?</td>", row, re.DOTALL)
        assert re.search(r"<strong>[\d,]+</strong>", trainable)
        assert '<data value="' in memory
        assert 'href="#source-' in inference
        assert ("operations per token" in inference) != (cls.facts.trains_base or cls.facts.trains_copies)
        assert 'href="/lesson/merging"' in mergeable
        assert 'href="#source-' in best
        assert cls.facts.best_for in best
    assert all(re.search(rf'<li id="source-{name}">.*?href="https://arxiv', text) for name in USUAL_METHODS)


def test_all_questions_have_the_lessons_answer_and_ours(client):
    text = text_of(client, "/exercises")
    for question in QUESTIONS:
        assert all(part in text for part in (question.asks, question.lesson, question.ours))
        address = f"/lesson/{question.chapter}" + (f"?{urlencode(question.typed)}" if question.typed else "")
        assert f'id="{question.example}"' in client.get(address).text
        assert f'href="{address}#{question.example}"' in text
        assert set(question.typed) <= set(defaults(BY_NAME[question.chapter]))


def test_every_result_that_is_committed_is_shown_where_it_belongs(client):
    results = proven()
    assert results
    shown = "".join(text_of(client, f"/{name}") for name in NAMES)
    for experiment in results.experiments:
        for claim in experiment.claims:
            assert claim.lesson in shown
            assert claim.done in shown
            assert all(figure.name in shown for figure in claim.figures)
            assert not claim.remark or claim.remark in shown
        for result in (*experiment.curves, *experiment.tables):
            assert result.title in shown


def test_the_contents_count_the_claims_and_link_to_those_that_do_not_hold(client):
    text = text_of(client, "")
    for experiment in proven().experiments:
        for claim in experiment.claims:
            link = re.search(rf'href="/lesson/([a-z]+)#{claim.id}"', text)
            assert bool(link) == (claim.verdict.kind == "does not hold")
            assert not link or f'id="{claim.id}"' in text_of(client, f"/{link[1]}")


def test_the_lesson_as_json_has_all_of_it(client):
    answer = client.get("/lesson.json").json()
    assert [chapter["name"] for chapter in answer["chapters"]] == NAMES
    assert [question["name"] for question in answer["questions"]] == [question.name for question in QUESTIONS]
    figures = [figure for chapter in answer["chapters"] for figure in chapter["figures"]]
    figures += [figure for question in answer["questions"] for figure in question["figures"]]
    assert sorted(figure["exact"] for figure in figures) == sorted(figure.exact for figure in LESSON)


@pytest.mark.parametrize("name", ["", *(f"/{name}" for name in NAMES)])
def test_pages_are_small_and_load_nothing_from_other_servers(client, name):
    response = client.get(f"/lesson{name}", headers={"Accept-Encoding": "gzip"})
    assert int(response.headers["content-length"]) < 40_000
    assert re.findall(r'(?:src|srcset|action|formaction)="(?:https?:)?//', response.text) == []
    assert re.findall(r"\sstyle=|<style|\son[a-z]+=\"", response.text) == []


def test_a_list_that_is_longer_than_a_line_has_lines_enough(client):
    page = client.get("/lesson/quantisation").text
    assert re.search(r'<textarea id="[^"]*weights"[^>]* rows="2"[^>]*>0\.8, -0\.31', page)
    assert client.get("/lesson/quantisation", params={"block-weights": "0.8,\n-0.31"}).status_code == 200
