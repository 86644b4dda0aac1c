"""Towers that attend within windows: a few of those that are alike are interpreted."""

import json

import pytest

from calculator.engine import loops
from calculator.estimation.estimate import model_of
from calculator.estimation.request import parse_request
from calculator.layers.tower_layers import Chunks
from calculator.methods.prepared_model import PreparedModel
from calculator.training_step.whole_tape import whole_tape
from tests.paths import CASE_FILES

TINY = json.loads((CASE_FILES / "images.jsonl").read_text().splitlines()[0])["request"]["model"]


def tape_of(training):
    training = {"sequence_length": 4096, **training}
    request = parse_request({"model": TINY, "method": {"name": "full"}, "training": training})
    return whole_tape(PreparedModel(model_of(request.model), request.method, request.training, request.device))[0]


def in_order(events):
    """Events with those sorted that free tensors one right after the other: their order changes nothing."""
    ordered, freed = [], []
    for event in (*events, 0):
        if event < 0:
            freed.append(event)
        else:
            ordered += [*sorted(freed), event]
            freed = []
    return ordered


@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize(("images", "batch"), [((784, 1000, 1), 1), ((300, 460, 3), 3)], ids=["rows", "images"])
def test_windows_that_are_not_interpreted_have_the_events_of_those_that_are(images, batch, checkpoints, monkeypatch):
    height, width, number = images
    training = {
        "gradient_checkpointing": checkpoints,
        "micro_batch_size": batch,
        "images": {"images_per_sequence": number, "image_height": height, "image_width": width},
    }
    folded = tape_of(training)
    monkeypatch.setattr(loops, "INTERPRETED", 1 << 30)
    whole = tape_of(training)
    assert folded.rows == whole.rows
    assert in_order(folded.events) == in_order(whole.events)
    assert folded.marks == whole.marks


def test_chunks_repeat_one_by_one_by_row_or_by_image():
    one, row, image = (64,), (64, 64, 32), (64, 32) * 7 + (16,)
    assert [*Chunks(one, 9).repeats()] == [(one, 9)]
    assert [*Chunks(row * 8 + (16,), 1).repeats()] == [(row, 8), ((16,), 1)]
    assert [*Chunks(image, 9).repeats()] == [(image, 9)]
