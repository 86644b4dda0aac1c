"""The table of what GPUs can train, compared with fresh estimates, and its rows on a GPU."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from calculator import catalogue
from calculator.cards.build import groups
from calculator.cards.card import card_rows
from calculator.cards.overview import overview
from calculator.cards.query import CardQuery, matching
from calculator.cards.settings import BATCHES, CARD_METHODS, LENGTHS, run_body
from calculator.cards.table import FILE, missing, table
from calculator.common.errors import PlanError
from calculator.devices import gpu, gpus
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.estimation.traced.check import modeled_models

#: Hybrids of attention and state spaces, and models with hundreds of experts, whose replays are the longest.
LARGE = (
    "ibm-granite/granite-4.0-h-micro",
    "tiiuae/Falcon-H1-7B-Base",
    "Qwen/Qwen3.5-122B-A10B",
    "Qwen/Qwen3.5-397B-A17B",
)
ANSWERED = [runs for runs in table() if not runs.refusal]
DRAWN = [
    *Random("cards").sample(ANSWERED, 6),
    *(Random(name).choice([runs for runs in ANSWERED if runs.entry.id == name]) for name in LARGE),
]
CARDS = ("rtx-3060-12gb", "rtx-4090", "h100-sxm5-80gb")


def answer(body):
    return estimate(parse_request(body))


def test_the_table_has_every_model_and_method_once():
    in_table = [entry.id for entry in catalogue.models() if entry.id not in missing()]
    assert [(runs.entry.id, runs.method) for runs in table()] == [
        (model, name) for model in in_table for name in CARD_METHODS
    ]


def test_few_models_of_the_catalogue_are_newer_than_the_table():
    """`python -m validation cards --model ID ...` adds theirs; the table has no rows of models that are only traced."""
    modeled = {entry.id for entry in modeled_models()}
    assert len(modeled & set(missing())) < len(modeled) / 10


def test_the_table_has_every_group_of_gpus():
    assert catalogue.read(FILE)["groups"] == [*groups()]
    assert sorted(card.id for cards in groups().values() for card in cards) == sorted(card.id for card in gpus())


def test_the_file_is_small():
    assert (Path(catalogue.__file__).parent / FILE).stat().st_size < 2_000_000


@pytest.mark.parametrize("runs", DRAWN, ids=lambda runs: f"{runs.entry.id} {runs.method}")
def test_a_drawn_row_reserves_what_a_fresh_estimate_does(runs):
    name = Random(runs.entry.id).choice([*runs.reserved])
    batch, length = Random(runs.method).choice([*runs.reserved[name]])
    card = groups()[name][-1].id
    body = run_body(runs.entry, runs.method, runs.changes, batch=batch, length=length, gpu=card)
    assert answer(body).memory.peak_reserved_bytes == runs.reserved[name][batch, length]


@pytest.mark.parametrize("runs", [next(runs for runs in table() if runs.refusal)], ids=lambda runs: runs.entry.id)
def test_a_refused_row_is_refused_by_an_estimate(runs):
    body = run_body(runs.entry, runs.method, {}, batch=1, length=LENGTHS[0], gpu="rtx-4090")
    with pytest.raises(PlanError) as caught:
        answer(body)
    assert runs.refusal == "; ".join(problem.msg for problem in caught.value.problems)


@pytest.mark.parametrize("name", CARDS)
def test_the_longest_sequence_fits_and_the_next_one_does_not(name):
    found = [row for row in card_rows(gpu(name)) if row.sequence_length and not row.is_longest_tried]
    row = Random(name).choice(found)
    fresh = answer(row.request)
    assert (fresh.fit.verdict, row.request["training"]["sequence_length"]) == ("fits", row.sequence_length)
    longer = {**row.request["training"], "sequence_length": 2 * row.sequence_length}
    assert answer({**row.request, "training": longer}).fit.verdict != "fits"


@pytest.mark.parametrize("name", CARDS)
def test_the_largest_micro_batch_fits_and_the_next_one_does_not(name):
    found = [row for row in card_rows(gpu(name)) if row.micro_batch_size and not row.is_largest_tried]
    row = Random(name).choice(found)
    sizes = {"sequence_length": row.batch_sequence_length, "micro_batch_size": row.micro_batch_size}
    training = {**row.request["training"], **sizes}
    assert answer({**row.request, "training": training}).fit.verdict == "fits"
    larger = {**training, "micro_batch_size": 2 * row.micro_batch_size}
    assert answer({**row.request, "training": larger}).fit.verdict != "fits"


def test_the_sizes_that_are_tried_double():
    assert [*LENGTHS] == [LENGTHS[0] << step for step in range(len(LENGTHS))]
    assert [*BATCHES] == [2 << step for step in range(len(BATCHES))]


def test_a_model_that_does_not_fit_states_what_it_needs_at_least():
    (row,) = (
        row for row in card_rows(gpu("rtx-4090")) if row.model == "meta-llama/Llama-3.1-70B" and row.method == "qlora"
    )
    fresh = answer(row.request)
    assert (row.fits, row.sequence_length, row.micro_batch_size) == (False, None, None)
    assert row.required_bytes == fresh.memory.required_bytes > fresh.fit.usable_bytes


@pytest.mark.parametrize(
    ("model", "length"), [("openai/whisper-small", 1500), ("google/vit-large-patch16-224-in21k", 197)]
)
def test_audio_and_images_have_the_length_of_the_config(model, length):
    rows = [row for row in card_rows(gpu("rtx-4090")) if row.model == model]
    trained = [row for row in rows if not row.refusal]
    assert [row.method for row in rows if row.refusal] == ["prompt"]
    assert {(row.sequence_length, row.batch_sequence_length, row.is_longest_tried) for row in trained} == {
        (length, length, True)
    }
    assert min(row.micro_batch_size for row in trained) > 1


def test_settings_that_differ_in_a_row_are_in_its_request():
    row = next(row for row in card_rows(gpu("h100-sxm5-80gb")) if "method.target_modules" in row.changes)
    assert row.request["method"]["target_modules"] == row.changes["method.target_modules"]


def rows():
    return card_rows(gpu("rtx-4060"))


def test_rows_are_filtered_by_every_setting():
    shown = matching(rows(), CardQuery(q="GPT2 openai", method="lora", sequence_length=1024, micro_batch_size=2))
    assert "openai-community/gpt2" in {row.model for row in shown}
    assert {(row.method, row.fits) for row in shown} == {("lora", True)}
    assert all(row.sequence_length >= 1024 and row.micro_batch_size >= 2 for row in shown)


def test_verdicts_divide_the_rows():
    fits, others, every = (matching(rows(), CardQuery(fits=name)) for name in ("fits", "does_not_fit", "all"))
    assert len(fits) + len(others) == len(every) == len(table())
    assert {row.fits for row in fits} == {True}


@pytest.mark.parametrize("sort", ["parameters", "model", "method", "required_bytes", "sequence_length"])
def test_rows_are_sorted_and_unknown_figures_come_last(sort):
    for order in ("ascending", "descending"):
        shown = matching(rows(), CardQuery(sort=sort, order=order, fits="all"))
        values = [getattr(row, sort) for row in shown]
        stated = [value.lower() if sort == "model" else value for value in values if value is not None]
        assert stated == sorted(stated, reverse=order == "descending")
        assert values[len(stated) :] == [None] * (len(values) - len(stated))


def test_no_row_matches_a_model_that_is_not_there():
    assert matching(rows(), CardQuery(q="no-such-model", fits="all")) == ()


def test_the_overview_counts_the_rows_that_fit():
    (summary,) = (row for row in overview() if row.card.id == "rtx-4060")
    for method in summary.methods:
        fitting = [row for row in rows() if row.method == method.method and row.fits]
        assert method.models == len(fitting)
        assert method.largest.parameters == max(row.parameters for row in fitting)


def test_a_run_that_a_replay_refuses_is_no_fit(monkeypatch):
    runs = next(runs for runs in table() if runs.entry.id == "openai-community/gpt2" and runs.method == "lora")
    card = gpu("rtx-4090")
    refused = replace(runs, unfit={card.id: frozenset({(1, 1024)})})
    monkeypatch.setattr("calculator.cards.card.table", lambda: (refused,))
    (row,) = card_rows.__wrapped__(card)
    assert row.sequence_length == 512
