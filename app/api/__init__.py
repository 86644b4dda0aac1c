"""The JSON API, version 1: one module an endpoint, or a group of them."""

from app.api import catalogues, compare, estimate, export, health, import_, inference, limits, plan, sweep, validation

#: Every module, in the documentation's order.
ENDPOINTS = (
    estimate,
    compare,
    limits,
    sweep,
    plan,
    inference,
    export,
    import_,
    catalogues,
    validation,
    health,
)

ROUTERS = tuple(module.router for module in ENDPOINTS)

#: What the documentation shows of the paths that take a body, and of those that only read.
POSTED = (
    estimate.POSTED,
    compare.POSTED,
    limits.POSTED,
    sweep.POSTED,
    plan.POSTED,
    inference.POSTED,
    export.POSTED,
    import_.POSTED,
)
READ = (*catalogues.READ, *validation.READ, *health.READ)
