"""The bottleneck adapters of a script that Headroom writes. PEFT has none, so the script defines their module.

See templates/exports/methods/adapter.py.jinja.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from app.interop.exports.bottleneck import ACTIVATIONS, MLP

if TYPE_CHECKING:
    from collections.abc import Sequence


def adapters_in(modules: Sequence[ast.Module]) -> dict[str, Any] | None:
    """Return the method of the adapters that modules define and place. Return None if they have none."""
    nodes = [node for module in modules for node in ast.walk(module)]
    bottleneck = next((node for node in nodes if isinstance(node, ast.ClassDef) and node.name == "Bottleneck"), None)
    places = next((node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == "adapt"), None)
    if bottleneck is None or places is None:
        return None
    calls = {ast.unparse(node.func): node for node in ast.walk(bottleneck) if isinstance(node, ast.Call)}
    activation = next((name for name, made_by in ACTIVATIONS.items() if f"nn.{made_by}" in calls), None)
    width = calls["nn.Linear"].args[:1] if "nn.Linear" in calls else []
    names = [node for node in ast.walk(places) if isinstance(node, ast.List) and node.elts]
    if activation is None or not width or not isinstance(width[0], ast.Constant) or not names:
        return None
    try:
        sublayers = ast.literal_eval(names[0])
    except ValueError:
        return None
    placement = "pfeiffer" if tuple(sublayers) == MLP else "houlsby"
    return {
        "name": "adapter",
        "bottleneck_size": width[0].value,
        "placement": placement,
        "non_linearity": activation,
    }
