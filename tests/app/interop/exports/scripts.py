"""Training scripts of small models, and what they print."""

import re
import runpy
import subprocess
import sys

from app.interop.exports import export
from calculator.estimation.request import parse_request
from calculator.resident.optimizers import OPTIMIZERS
from tests.tiny_models import LLAMA

LOW_RANK = {"r": 4, "target_modules": "all-linear"}


def body(method, config=LLAMA, **training):
    return {"model": {"config": config}, "method": method, "training": {"sequence_length": 32, **training}}


def optimizing(name, named="all-linear"):
    """The settings of an optimizer, with the modules that one of projections needs."""
    return {"optimizer": name, **({"optim_target_modules": named} if OPTIMIZERS[name].projects else {})}


def script(request):
    return export(parse_request(request), "peft").content


def ran(request, tmp_path, monkeypatch, capsys, *options):
    """The output of a script of two steps."""
    file = tmp_path / "train.py"
    file.write_text(script(request))
    monkeypatch.setattr(sys, "argv", ["train.py", "--steps", "2", *options])
    runpy.run_path(str(file), run_name="__main__")
    return capsys.readouterr().out


def trained_as_planned(printed):
    """Two steps with a loss, and the planned number of trained parameters."""
    found = re.search(r"trained parameters: ([\d,]+) \(estimated: ([\d,]+)\)", printed)
    assert found[1] == found[2]
    assert re.findall(r"step (\d): loss \d+\.\d+", printed) == ["1", "2"]


def check_with_ruff(folder):
    """Check that ruff changes nothing in the scripts of a folder."""
    for check in (("format", "--check"), ("check", "--select", "E,F,I,B")):
        command = [sys.executable, "-m", "ruff", *check, "--isolated", "--line-length", "120", str(folder)]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
