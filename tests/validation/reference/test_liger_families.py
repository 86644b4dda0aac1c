"""The families that Liger patches are modeled or refused: others would be answered as if it changed nothing."""

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from calculator.families import FAMILIES_WITH_FORWARD
from calculator.trainers.liger import NOT_MODELED, PATCHES

pytestmark = pytest.mark.trace

TABLE = "MODEL_TYPE_TO_APPLY_LIGER_FN"


def patched_by_liger():
    """The keys of Liger's table, read from its source: importing it needs Triton."""
    (folder,) = find_spec("liger_kernel").submodule_search_locations
    source = (Path(folder) / "transformers" / "monkey_patch.py").read_text()
    (table,) = [
        node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and [target.id for target in node.targets] == [TABLE]
    ]
    return {key.value for key in table.keys}


def test_every_modeled_family_that_liger_patches_is_modeled_with_it_or_refused():
    assert patched_by_liger().intersection(FAMILIES_WITH_FORWARD) == {*PATCHES, *NOT_MODELED}
