"""The templates of exported scripts."""

from functools import cache

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from app.interop.exports.literal import literal
from app.resources import TEMPLATES


@cache
def script_template(name: str) -> Template:
    """Return the template of a script, by its path in `templates/exports`."""
    # The output is Python, not HTML: every value passes through `literal`, or comes from the calculator.
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES / "exports"),
        autoescape=False,  # noqa: S701
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["literal"] = literal
    return environment.get_template(name)
