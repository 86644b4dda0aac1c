"""The files that the pages need, and the project's version, in a checkout or in an installed package."""

import tomllib
from importlib.metadata import version
from pathlib import Path

#: The name under which the package is installed. `headroom` belongs to another project on the package index.
DISTRIBUTION = "headroom-gpu"

_APP = Path(__file__).resolve().parent
_PROJECT = _APP.parent / "pyproject.toml"

#: The folder of `templates` and `static`: a wheel has them inside `app`, since it has no top level of its own.
_ROOT = _APP.parent if _PROJECT.exists() else _APP

TEMPLATES, STATIC = _ROOT / "templates", _ROOT / "static"

#: The committed results of comparisons. `validation` is next to `app` in both places.
RESULTS = _APP.parent / "validation" / "results"

VERSION: str = (
    tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]["version"]
    if _PROJECT.exists()
    else version(DISTRIBUTION)
)
