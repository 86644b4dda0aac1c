"""A sweep over several processes has the rows of one process, in order, also if a process dies."""

import json
import os
import signal
from contextlib import nullcontext
from itertools import islice

import pytest

from app.__main__ import main
from app.api.answers.sweep import row
from app.sweeps import spread
from app.sweeps.backends import Processes
from calculator.common.errors import PlanError
from calculator.limit_search.sweep import answers, parse_sweep

#: Points that are answered and points that are refused, in several blocks.
SWEEP = {
    "request": {"model": "gpt2", "method": {"name": "lora"}, "device": {"gpu": "rtx-4090"}},
    "grid": {"method.name": ["lora", "prefix"], "method.r": [1, 2, 4, 8], "training.sequence_length": [8, 16, 32, 64]},
}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(spread, "WINDOW", 3)
    monkeypatch.setenv("PROCESS_OF_TESTS", str(os.getpid()))


def expected(sweep):
    return [json.loads(json.dumps(row(answer))) for answer in answers(sweep)]


_LINES_OF = spread.lines_of


def small(request, grid, start):
    """The lines of a block of four points, in another process, whose module has the usual size."""
    assert os.getpid() != int(os.environ["PROCESS_OF_TESTS"])
    spread.BLOCK = 4
    return _LINES_OF(request, grid, start)


def test_points_are_found_by_their_number():
    sweep = parse_sweep(SWEEP)
    everything = list(sweep.points())
    assert everything[0] == {"method.name": "lora", "method.r": 1, "training.sequence_length": 8}
    assert everything[5] == {"method.name": "lora", "method.r": 2, "training.sequence_length": 16}
    assert len(everything) == len({json.dumps(point) for point in everything}) == sweep.count == 32
    assert list(sweep.points(30, 99)) == everything[30:]
    assert [answer.point for answer in answers(sweep, 3, 6)] == everything[3:6]


@pytest.mark.parametrize("backend", ["loky", "ray"])
def test_no_row_is_lost_when_a_process_is_killed(monkeypatch, tmp_path, backend):
    if backend == "ray":
        pytest.importorskip("ray", reason="ray is an optional extra")
    monkeypatch.setattr(spread, "BLOCK", 4)
    sweep = parse_sweep(SWEEP)
    mark = tmp_path / "killed"

    def dying(request, grid, start):
        """The lines of a block. It calls no function of this module, which ray's workers cannot import."""
        if start == 8 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        spread.BLOCK = 4
        return _LINES_OF(request, grid, start)

    monkeypatch.setattr(spread, "lines_of", dying)
    assert list(spread.rows(sweep, Processes(jobs=2, backend=backend))) == expected(sweep)
    assert mark.exists()


def test_points_that_end_every_process_are_named(monkeypatch):
    monkeypatch.setattr(spread, "BLOCK", 4)
    sweep = parse_sweep(SWEEP)
    monkeypatch.setattr(spread, "lines_of", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(PlanError, match="points 0 to 3 ended 3 times"):
        list(spread.rows(sweep, Processes(jobs=2)))


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_of_dask_loses_no_row_when_a_worker_is_killed(monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr(spread, "BLOCK", 4)
    monkeypatch.setattr(spread, "lines_of", small)
    sweep = parse_sweep(SWEEP)
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "processes": True}
    with LocalCluster(**options) as cluster:
        processes = Processes(jobs=-1, backend="dask", scheduler=cluster.scheduler_address)
        rows = spread.rows(sweep, processes)
        first = list(islice(rows, 2))
        os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)
        assert first + list(rows) == expected(sweep)


def test_rows_are_not_computed_before_the_window_is_read(monkeypatch):
    """A stand-in for joblib's generator that computes everything at once."""
    import joblib

    monkeypatch.setattr(spread, "BLOCK", 2)
    computed = []

    def eager(tasks):
        done = [function(*arguments) for function, arguments, _ in tasks]
        computed.extend(done)
        return iter(done)

    monkeypatch.setattr(joblib, "Parallel", lambda **_: nullcontext(eager))
    rows = spread.rows(parse_sweep(SWEEP), Processes(jobs=1))
    next(rows)
    assert len(computed) == 3
    assert len(list(rows)) == 31
    assert len(computed) == 16


def test_the_command_prints_the_same_with_two_processes(capsys):
    options = ["sweep", "--model", "gpt2", "--grid", "method=lora,prefix", "--grid", "r=4,8", "--gpu", "rtx-4090"]
    printed = []
    for spread_over in ([], ["--jobs", "2"]):
        for kind in ([], ["--csv"]):
            status = main([*options, *kind, *spread_over])
            printed.append((status, *capsys.readouterr()))
    assert printed[:2] == printed[2:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scheduler", "tcp://127.0.0.1:1"], "--scheduler: add --backend dask or --backend ray"),
        (["--backend", "loky", "--scheduler", "tcp://127.0.0.1:1"], "--scheduler: loky has no scheduler"),
        (["--csv", "--parquet", "x"], "--csv: give either --csv or --parquet, not both"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message, capsys):
    assert main(["sweep", "--model", "gpt2", "--method", "lora", "--grid", "r=1", *options]) == 2
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize(("backend", "package"), [("ray", "ray"), ("dask", "distributed"), ("loky", "joblib")])
def test_a_backend_that_is_not_installed_is_refused_with_the_command_that_installs_it(
    backend, package, monkeypatch, capsys
):
    monkeypatch.setattr("app.sweeps.backends.find_spec", lambda name: None if name == package else name)
    assert main(["sweep", "--model", "gpt2", "--method", "lora", "--grid", "r=1", "--backend", backend]) == 2
    assert f"needs the package {package}: pip install 'headroom-gpu[" in capsys.readouterr().err


def test_an_invalid_number_of_jobs_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["sweep", "--model", "gpt2", "--jobs", "0"])
    assert "is not a number of processes" in capsys.readouterr().err
