"""The house: what may import what, how requirements are pinned, and what make offers."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
REQUIREMENTS = ROOT / "requirements"
PINNED = sorted(path for path in REQUIREMENTS.glob("*.txt") if path.name != "torch.txt")
REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9][\w.-]*)(?P<rest>.*)$")
PIN = re.compile(r"==[\w.!+]+( ; .+)?")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")

LIST_FOREIGN = """
import importlib, pathlib, sys
before = set(sys.modules)
for path in sorted(pathlib.Path("calculator").rglob("*.py")):
    name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    importlib.import_module(name)
loaded = {name.split(".")[0] for name in set(sys.modules) - before}
print(" ".join(sorted(loaded - set(sys.stdlib_module_names) - {"calculator"})))
"""


def requirements(path):
    """Each requirement of a pinned file: its name, and its lines joined."""
    text = path.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return {match["name"]: match["rest"] for match in map(REQUIREMENT.match, lines) if match}


def imported(package):
    """The top-level packages that a package's files import, by file."""
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [(path.name, name.split(".")[0]) for name in names]
    return found


def test_the_calculator_imports_only_the_standard_library():
    told = subprocess.run(
        [sys.executable, "-c", LIST_FOREIGN], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (told.stderr, told.stdout.split()) == ("", [])


@pytest.mark.parametrize(("package", "other"), [("app", "validation"), ("validation", "app"), ("calculator", "app")])
def test_a_package_does_not_import_its_neighbour(package, other):
    assert [file for file, name in imported(package) if name == other] == []


def test_there_are_pins_for_the_app_the_checks_and_the_validation():
    assert [path.name for path in PINNED] == ["dev.txt", "serve.txt", "validation.txt"]


@pytest.mark.parametrize("path", PINNED, ids=lambda path: path.name)
def test_every_requirement_is_pinned_to_a_version_and_hashed(path):
    found = requirements(path)
    assert len(found) >= 15
    for name, rest in found.items():
        version, *hashes = rest.split(" --hash=")
        assert PIN.fullmatch(version.strip()), name
        assert hashes, name
        assert len(HASH.findall(rest)) == len(hashes), name


@pytest.mark.parametrize("path", sorted(REQUIREMENTS.iterdir()), ids=lambda path: path.name)
def test_no_requirement_names_an_address_or_an_index(path):
    text = path.read_text()
    assert not re.search(r"://|--(extra-)?index-url|--find-links|@ ", text)
    assert not re.search(r"\b[\w-]+\.(org|com|net|io)\b", text)


@pytest.mark.parametrize("path", PINNED, ids=lambda path: path.name)
def test_torch_and_what_only_it_needs_is_pinned_nowhere(path):
    assert not [name for name in requirements(path) if re.match(r"(torch|triton|nvidia|sympy)", name)]


def test_torch_is_a_range_that_any_build_satisfies():
    lines = [line for line in (REQUIREMENTS / "torch.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == ["torch>=2.11"]


def test_every_requirement_of_the_project_is_pinned_for_who_needs_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {
        "serve.txt": project["dependencies"],
        "dev.txt": project["optional-dependencies"]["dev"],
        "validation.txt": [r for r in project["optional-dependencies"]["validation"] if not r.startswith("torch")],
    }
    for file, ranges in wanted.items():
        names = {re.split(r"[<>=\[ ]", r)[0] for r in ranges}
        assert names <= set(requirements(REQUIREMENTS / file)), file


def test_the_files_agree_on_every_version():
    versions = {}
    for path in PINNED:
        for name, rest in requirements(path).items():
            versions.setdefault(name, set()).add(rest.split(" --hash=")[0].strip())
    assert {name: seen for name, seen in versions.items() if len(seen) > 1} == {}


def test_make_alone_lists_what_it_can_do():
    told = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    for target in ("serve", "test", "check", "bench", "grid", "clean"):
        assert f"make {target} " in told.stdout


def test_a_python_that_is_too_old_is_refused_with_the_way_out(tmp_path):
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo "Python 3.9.2" && exit\nexit 1\n')
    old.chmod(0o755)
    told = subprocess.run(
        ["make", "serve", f"PYTHON={old}", f"VENV={tmp_path}/venv"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode != 0
    assert "needs Python 3.11 or later" in told.stderr
    assert "Python 3.9.2" in told.stderr


def test_every_test_file_has_a_name_of_its_own():
    names = [path.name for path in sorted((ROOT / "tests").rglob("test_*.py"))]
    assert [name for name in names if names.count(name) > 1] == []
