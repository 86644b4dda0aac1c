"""The JSON API, version 1: one module per endpoint, its answer model in `app.api.answers.<same name>`."""

from app.api import (
    cards,
    compare,
    diagnose,
    estimate,
    export,
    gpus,
    health,
    import_,
    inference,
    limits,
    methods,
    model_types,
    models,
    plan,
    run,
    sweep,
    trainers,
    validation,
)

#: Every endpoint module, in the order of the documentation.
ENDPOINTS = (
    estimate,
    compare,
    limits,
    sweep,
    plan,
    run,
    inference,
    diagnose,
    export,
    import_,
    model_types,  # before models, whose ids are paths
    models,
    gpus,
    cards,
    methods,
    trainers,
    validation,
    health,
)

ROUTERS = tuple(module.router for module in ENDPOINTS)

#: Examples of every POST endpoint, for the OpenAPI document.
POST_EXAMPLES = (
    estimate.EXAMPLES,
    compare.EXAMPLES,
    limits.EXAMPLES,
    sweep.EXAMPLES,
    plan.EXAMPLES,
    run.EXAMPLES,
    inference.EXAMPLES,
    diagnose.EXAMPLES,
    export.EXAMPLES,
    import_.EXAMPLES,
)

#: One example answer of every GET endpoint, for the OpenAPI document.
GET_EXAMPLES = (
    *models.EXAMPLES,
    *model_types.EXAMPLES,
    *gpus.EXAMPLES,
    *cards.EXAMPLES,
    *methods.EXAMPLES,
    *trainers.EXAMPLES,
    *validation.EXAMPLES,
    *health.EXAMPLES,
)
