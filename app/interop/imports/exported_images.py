"""The images of a script that Headroom writes. They are read, since its form is known.

See templates/exports/images.py.jinja.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: The number of images in a row, and their width and height.
_NUMBER, _SIZE = "IMAGES_PER_SEQUENCE", "IMAGE_SIZE"

#: The tokens of a row, images included.
_LENGTH = "SEQUENCE_LENGTH"

#: The limits that the processor is loaded with.
_LIMITS = ("min_pixels", "max_pixels")


def images_in(modules: Sequence[ast.Module]) -> dict[str, Any]:
    """Return the training settings of rows with images. Return none if the code has no such rows."""
    constants = dict(_constants(modules))
    number, size, length = (constants.get(name) for name in (_NUMBER, _SIZE, _LENGTH))
    if type(number) is not int or not isinstance(size, tuple) or list(map(type, size)) != [int, int]:
        return {}
    images = {"images_per_sequence": number, "image_width": size[0], "image_height": size[1], **_limits(modules)}
    settings = {"images": images, "padding": _has_paragraphs(modules)}
    return settings | ({"sequence_length": length} if type(length) is int else {})


def _has_paragraphs(modules: Sequence[ast.Module]) -> bool:
    """Return whether rows are paragraphs, whose lengths differ: the text is split at empty lines, not at words."""
    nodes = [node for module in modules for node in ast.walk(module)]
    rows = [node for node in nodes if isinstance(node, ast.ClassDef) and node.name == "Rows"]
    calls = [node for row in rows for node in ast.walk(row) if isinstance(node, ast.Call) and node.args]
    return any(isinstance(node.func, ast.Attribute) and node.func.attr == "split" for node in calls)


def _constants(modules: Sequence[ast.Module]) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of constants at the top of modules."""
    for node in (node for module in modules for node in module.body if isinstance(node, ast.Assign)):
        try:
            value = ast.literal_eval(node.value)
        except (ValueError, TypeError):
            continue
        yield from ((target.id, value) for target in node.targets if isinstance(target, ast.Name))


def _limits(modules: Sequence[ast.Module]) -> dict[str, int]:
    """Return the limits of pixels with which the processor is loaded."""
    calls = [node for module in modules for node in ast.walk(module) if isinstance(node, ast.Call)]
    loads = [node for node in calls if ast.unparse(node.func) == "AutoProcessor.from_pretrained"]
    return {
        keyword.arg: keyword.value.value
        for node in loads
        for keyword in node.keywords
        if keyword.arg in _LIMITS and isinstance(keyword.value, ast.Constant) and type(keyword.value.value) is int
    }
