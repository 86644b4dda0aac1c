"""The project's rules: which package imports which, how requirements are pinned, and which targets make offers."""

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
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

#: A file is collected once it is imported: its parameters are values in decorators.
IMPORT_WITHOUT_TORCH = """
import importlib, pathlib, sys
for name in ("torch", "transformers", "peft", "bitsandbytes", "accelerate"):
    sys.modules[name] = None
import tests.conftest
for path in sorted(pathlib.Path("tests/calculator").rglob("*.py")):
    importlib.import_module(".".join(path.with_suffix("").parts))
    print(path)
"""


def requirements(path):
    """Each requirement of a pinned file by name, with its lines joined."""
    text = path.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return {match["name"]: match["rest"] for match in map(REQUIREMENT.match, lines) if match}


@cache
def import_nodes(package):
    """The import statements of each file of a package, by path."""
    return {
        path: [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def imported(package):
    """The top-level packages that a package's files import, by file."""
    found = []
    for path, nodes in import_nodes(package).items():
        for node in nodes:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [(path.name, name.split(".")[0]) for name in names]
    return found


def test_the_calculator_imports_only_the_standard_library():
    listing = subprocess.run(
        [sys.executable, "-c", LIST_FOREIGN], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert (listing.stderr, listing.stdout.split()) == ("", [])


def test_the_tests_of_the_calculator_need_no_pytorch():
    imports = subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT_TORCH],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=6000,
        check=False,
    )
    assert imports.returncode == 0, imports.stderr[-3000:]
    assert len(imports.stdout.splitlines()) > 100


@pytest.mark.parametrize(("package", "other"), [("app", "validation"), ("validation", "app"), ("calculator", "app")])
def test_a_package_does_not_import_the_other(package, other):
    assert [file for file, name in imported(package) if name == other] == []


def test_requirements_are_pinned_for_serve_dev_and_validation():
    assert [path.name for path in PINNED] == ["dev.txt", "serve.txt", "validation.txt"]


#: The packages of calculator/, lowest first. A package imports packages of its own line and of the lines above.
ORDER = (
    ("common",),
    ("inputs", "architecture", "catalogue"),
    ("stack",),
    ("devices", "resident"),
    ("engine",),
    ("layers",),
    ("bases", "checkpoint", "methods", "families", "trainers", "sharding"),
    ("training_step",),
    ("allocator",),
    ("estimation",),
    ("comparison", "limit_search", "inference"),
    ("speed",),
    ("run",),
    ("cards",),
    ("planning",),
    ("diagnosis", "data_lengths"),
    ("public",),
    ("lesson",),
)
HEIGHTS = {package: height for height, packages in enumerate(ORDER) for package in packages}

#: The most modules that may import one another in a circle. Imports for type checkers count.
LARGEST_CIRCLE = 5


def import_graph():
    """The modules of calculator/, each with the modules of calculator/ that it imports."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): nodes
        for path, nodes in import_nodes("calculator").items()
    }
    graph = {}
    for name, nodes in modules.items():
        imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
        pairs = [(f"{node.module}.{alias.name}", node.module) for node in imports for alias in node.names]
        graph[name] = {full if full in modules else module for full, module in pairs} & modules.keys() - {name}
    return graph


def reachable(graph, start):
    """The modules that a module imports, directly or through others."""
    seen, queue = set(), [start]
    while queue:
        found = graph[queue.pop()] - seen
        seen |= found
        queue += found
    return seen


def test_the_order_of_the_calculators_packages_is_complete():
    assert {path.parent.name for path in (ROOT / "calculator").glob("*/__init__.py")} == HEIGHTS.keys()


def test_a_package_of_the_calculator_imports_no_higher_one():
    graph = {name: imports for name, imports in import_graph().items() if "." in name}
    heights = {name: HEIGHTS[name.split(".")[1]] for name in graph}
    pairs = [(name, other) for name, imports in graph.items() for other in imports]
    assert [(name, other) for name, other in pairs if heights[other] > heights[name]] == []


def test_no_circle_of_imports_is_large():
    graph = import_graph()
    imported = {name: reachable(graph, name) for name in graph}
    circles = {frozenset(other for other in imported[name] if name in imported[other]) for name in graph}
    assert [sorted(circle) for circle in circles if len(circle) > LARGEST_CIRCLE] == []


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
def test_no_file_pins_torch_or_its_own_dependencies(path):
    assert not [name for name in requirements(path) if re.match(r"(torch|triton|nvidia|sympy)", name)]


def test_torch_is_a_range_that_any_build_satisfies():
    lines = [line for line in (REQUIREMENTS / "torch.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == ["torch>=2.11,<2.16"]


def test_every_requirement_of_the_project_is_pinned_in_its_file():
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


def test_make_without_a_target_lists_the_targets():
    listing = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, timeout=600, check=True)
    for target in ("serve", "test", "check", "bench", "grid", "clean"):
        assert f"make {target} " in listing.stdout


def test_make_refuses_an_old_python_and_names_the_version_it_needs(tmp_path):
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo "Python 3.9.2" && exit\nexit 1\n')
    old.chmod(0o755)
    refusal = subprocess.run(
        ["make", "serve", f"PYTHON={old}", f"VENV={tmp_path}/venv"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert refusal.returncode != 0
    assert "needs Python 3.11 or later" in refusal.stderr
    assert "Python 3.9.2" in refusal.stderr


def test_every_test_file_has_a_unique_name():
    names = [path.name for path in sorted((ROOT / "tests").rglob("test_*.py"))]
    assert [name for name in names if names.count(name) > 1] == []
