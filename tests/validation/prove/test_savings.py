import dataclasses

import pytest
import torch

from validation.prove import savings_claims
from validation.prove.experiment import Setting
from validation.prove.lesson_runs import runs, stated
from validation.prove.savings import EXPERIMENT, steps

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def found():
    done = []
    findings = EXPERIMENT.run(Setting(device=torch.device("cpu"), quick=True, step=lambda: done.append(1)))
    assert len(done) == steps(True)
    return findings


def test_the_verdicts_on_the_lessons_tables(found):
    assert {claim.id: claim.kind for claim in found.claims} == {
        "savings-computed": "holds",
        "savings-reduction": "does not hold",
        "savings-24gb": "does not hold",
        "savings-training": "does not hold",
        "savings-13b": "does not hold",
        "savings-cards": "does not hold",
        "savings-lora": "holds",
    }


def test_the_table_has_every_runs_components_and_sums(found):
    (table,) = found.tables
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert {row["run"] for row in rows} == {run.name for run in runs(quick=True).values()}
    full = {row["component"]: row for row in rows if row["run"] == "70B, full, bfloat16"}
    assert full["base weights"]["lesson"] == 140 * 10**9
    assert full["base weights"]["textbook"] == 2 * 70_553_706_496
    assert full["peak"]["lesson"] == 840 * 10**9
    assert full["peak"]["exact"] == sum(row["exact"] for name, row in full.items() if name != "peak")


def test_an_error_of_one_byte_is_detected():
    selected = {"lora": runs(quick=True)["lora"]}
    exact, traced = selected["lora"].compared
    wrong = dataclasses.replace(exact, static={**exact.static, "gradients": exact.static["gradients"] + 1})
    vars(selected["lora"])["compared"] = (wrong, traced)
    assert "differ: 1, not equal to 0" in savings_claims.computed(selected).words


def test_a_run_that_is_small_enough_passes():
    selected = runs(quick=True)
    vars(selected["qlora"])["found"] = selected["lora"].found
    assert savings_claims.small_gpu(selected).kind == "holds"


def test_stated_figures_are_the_lessons():
    assert stated("reduction against full fine-tuning") == (23, 23)
    with pytest.raises(ValueError, match="unpack"):
        stated("a free lunch")
