"""A run of hostile requests continues from its file, and sends what one without interruption sends."""

import pytest

from tests.hostile import __main__ as command
from tests.hostile.generated import paths, request, route_paths
from tests.hostile.tally import Tally, load, save


@pytest.fixture
def sent(monkeypatch):
    """The requests that are sent, in chunks of 20; every fourth is a fault."""
    requests = []

    async def status_of(_, hostile):
        requests.append(hostile)
        return 500 if len(requests) % 4 == 0 else 404

    monkeypatch.setattr(command, "status_of", status_of)
    monkeypatch.setattr(command, "application", lambda: None)
    monkeypatch.setattr(command, "CHUNK", 20)
    return requests


def send(tally, count, checkpoint=None):
    coroutine = command.send_all(tally, count, checkpoint)
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    return ended.value.value


def test_a_run_continues_from_its_file(sent, tmp_path, capsys):
    file = tmp_path / "sent.json"
    assert send(load(file, 7), 40, file) == 10
    assert send(load(file, 7), 60, file) == 15
    continued = [*sent]
    sent.clear()
    assert send(Tally(seed=7), 60) == 15
    assert sent == continued
    assert load(file, 7).statuses == {"404": 45, "500": 15}
    assert "60 requests, 15 faults (404: 45, 500: 15)" in capsys.readouterr().out


def test_a_file_of_another_seed_is_refused(tmp_path):
    save(tmp_path / "sent.json", Tally(seed=7))
    with pytest.raises(ValueError, match="is of seed 7, not of 8"):
        load(tmp_path / "sent.json", 8)


def test_every_route_has_a_path():
    assert len(paths()) >= len(set(route_paths()))
    assert not any("{" in path for path in paths())
    assert isinstance(request(command.random.Random(1)).path, str)
