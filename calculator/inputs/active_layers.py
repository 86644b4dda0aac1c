"""Names that users try as optimizers for methods that train some layers at a time."""

from __future__ import annotations

#: How a request writes each.
ACTIVE_LAYERS = {
    "badam": 'BAdam is a setting of the method: {"name": "full", "use_badam": true}, with the optimizer that it wraps',
    "lisa": 'LISA is a setting of the method: {"name": "full", "lisa_n_layers": 2}, with another optimizer',
}
