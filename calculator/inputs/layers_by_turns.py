"""Names that users try as optimizers for methods that train layers by turns."""

from __future__ import annotations

#: How a request writes each.
BY_TURNS = {
    "badam": 'BAdam is a setting of the method: {"name": "full", "use_badam": true}, with the optimizer that it wraps',
    "lisa": 'LISA is a setting of the method: {"name": "full", "lisa_n_layers": 2}, with another optimizer',
}
