"""A sweep as Parquet has the columns and figures of CSV, with types."""

import csv
import io

import pytest

from app.__main__ import main
from app.sweeps import parquet

SWEEP = (
    *("sweep", "--model", "gpt2", "--gpu", "rtx-4090", "--grid", "method=lora,prefix", "--grid", "r=4,8"),
    *("--grid", "training.sequence_lengths=[null,[[64,1]]]"),
)


def test_a_file_has_the_rows_of_csv(tmp_path, capsys, monkeypatch):
    from pyarrow.parquet import read_table

    monkeypatch.setattr(parquet, "ROW_GROUP", 3)
    file = tmp_path / "sweep.parquet"
    assert main([*SWEEP, "--parquet", str(file)]) == 0
    assert capsys.readouterr().out == ""
    main([*SWEEP, "--csv"])
    names, *lines = csv.reader(io.StringIO(capsys.readouterr().out))
    table = read_table(file)
    assert table.column_names == names
    rows = [["" if value is None else str(value) for value in row.values()] for row in table.to_pylist()]
    assert rows == lines
    kinds = {field.name: str(field.type) for field in table.schema}
    assert kinds["method.name"] == kinds["training.sequence_lengths"] == kinds["fit.verdict"] == "string"
    assert kinds["method.r"] == kinds["memory.required_bytes"] == "int64"
    assert kinds["parameters.trainable_fraction"] == "double"


@pytest.mark.parametrize(
    ("values", "kind"),
    [((1, None), "int64"), ((1, 2.5), "string"), ((True, False), "bool"), ((2**63,), "string"), ((None,), "string")],
)
def test_a_column_of_values_of_one_kind_has_its_type(values, kind):
    assert parquet._type(values) == kind


def test_without_pyarrow_the_option_is_refused_with_the_command_that_installs_it(monkeypatch, capsys):
    monkeypatch.setattr(parquet, "find_spec", lambda _: None)
    assert main([*SWEEP, "--parquet", "x"]) == 2
    assert "pip install 'headroom-gpu[parquet]'" in capsys.readouterr().err
