"""Exports and imports of runs with sample lengths or an emptied cache."""

import ast

import pytest
import yaml

from app.interop.exports import export
from app.interop.imports import read
from calculator.estimation.request import parse_request

BODY = {"model": "HuggingFaceTB/SmolLM2-135M", "method": {"name": "lora", "target_modules": "all-linear"}}
LENGTHS = {"micro_batch_size": 2, "sequence_lengths": [[32, 90], [64, 10]], "torch_empty_cache_steps": 5}


def exported(tool, **training):
    return export(parse_request(BODY | {"training": {**LENGTHS, **training}}), tool)


def test_the_script_pads_to_the_longest_sample_and_empties_the_cache():
    text = exported("peft").content
    ast.parse(text)
    assert "SEQUENCE_LENGTH = 64" in text
    assert "shape = (MICRO_BATCH_SIZE, max(map(len, batch_paragraphs)))" in text
    assert "if (number - 1) % 5 == 0:" in text
    assert text.index("% 5") < text.index("loss.backward()")


def test_the_script_empties_the_cache_after_the_step():
    text = exported("peft", empty_cache_at="after_step").content
    ast.parse(text)
    assert "if number % 5 == 0:" in text
    assert text.index("optimizer.step()") < text.index("% 5")


@pytest.mark.parametrize("tool", ["axolotl", "llama-factory"])
def test_a_tool_gets_the_key_of_the_trainer_and_reads_it_back(tool):
    file = exported(tool)
    keys = yaml.safe_load(file.content)
    assert keys["torch_empty_cache_steps"] == 5
    assert [remark.loc for remark in file.not_expressed if "lengths" in remark.loc] == ["training.sequence_lengths"]
    assert read(file.content, tool).request["training"]["torch_empty_cache_steps"] == 5


@pytest.mark.parametrize("tool", ["axolotl", "llama-factory"])
def test_a_place_that_the_trainer_has_not_is_listed(tool):
    locs = [remark.loc for remark in exported(tool, empty_cache_at="after_step").not_expressed]
    assert "training.empty_cache_at" in locs
