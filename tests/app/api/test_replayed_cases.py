"""Traced cases of every file by the API with the default replay; `python -m validation replays` checks all of them."""

from itertools import groupby

import pytest

from tests.paths import CASE_FILES
from validation.comparison.replays import difference, drawn, named_cases, replayed

#: One case of each file, which one draw chose.
CASES = [
    case
    for _, cases in groupby(named_cases([CASE_FILES]), lambda named: named[0].split()[0])
    for case in drawn([*cases], 1, seed=15)
]


@pytest.mark.parametrize(("name", "request_"), CASES, ids=[name for name, _ in CASES])
def test_a_traced_case_is_answered_by_replay_and_both_replays_agree(client, name, request_):
    answer = client.post("/api/v1/estimate", json=replayed(request_))
    assert answer.status_code == 200, name
    assert answer.json()["fit"]["minimum_bytes"] is not None or "sharding" in request_["device"]
    assert difference(request_) == ""
