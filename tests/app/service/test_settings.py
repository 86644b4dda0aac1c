"""A server process reads its settings from the environment that the command line made."""

import os

import pytest

from app.__main__ import main
from app.service.settings import ServiceSettings


def test_settings_pass_through_an_environment():
    settings = ServiceSettings(cache_bytes=0, most_at_once=7, most_long_at_once=1, access_log=False, long_socket="/s")
    assert ServiceSettings.from_environment(settings.environment) == settings
    assert ServiceSettings.from_environment({}) == ServiceSettings()


def test_a_variable_that_is_no_number_is_refused_by_the_command(monkeypatch, capsys):
    monkeypatch.setenv("CACHE_BYTES", "64M")
    assert main(["serve"]) == 2
    assert "CACHE_BYTES" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "seconds"), [("", "2"), ("7", "7")])
def test_a_server_limits_answers_that_could_be_streamed_and_are_not(given, seconds, monkeypatch):
    seen = []
    monkeypatch.setenv("MOST_PLAIN_SECONDS", given)
    monkeypatch.setattr("uvicorn.run", lambda *_, **__: seen.append(os.environ["MOST_PLAIN_SECONDS"]))
    assert main(["serve", "--long-workers", "0"]) == 0
    assert seen == [seconds]


@pytest.mark.parametrize("path", ["headroom", "/a/", "/a b", "//a"])
def test_an_invalid_root_path_is_refused(path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["serve", "--root-path", path])
    assert left.value.code == 2
    assert "is not a path" in capsys.readouterr().err
