"""Every published row has the address of its source."""

import re

import pytest

from validation.published.source import address, sources


@pytest.mark.parametrize("source", sources(), ids=lambda source: source.name)
def test_a_source_has_a_title_a_licence_a_remark_and_rows(source):
    assert source.title
    assert source.licence
    assert source.remark
    assert source.rows


@pytest.mark.parametrize("source", sources(), ids=lambda source: source.name)
def test_every_row_has_an_address_at_a_commit_or_of_a_package_and_its_own_id(source):
    repository = r"https://github\.com/[\w-]+/[\w-]+"
    place = repository if source.name == "vramcalc" else rf"{repository}/blob/[0-9a-f]{{9,40}}/\S+"
    for row in source.rows:
        assert re.fullmatch(place, address(row)), row["id"]
    assert len({row["id"] for row in source.rows}) == len(source.rows)


@pytest.mark.parametrize("source", sources(), ids=lambda source: source.name)
def test_every_row_has_a_measured_figure_or_ran_out_of_memory(source):
    for row in source.rows:
        assert any(value for value in row["measured"].values()) or row.get("status") == "OOM", row["id"]
