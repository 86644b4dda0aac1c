"""The HTML pages: one package per page, named after its URL."""

from app.pages.cards import routes as cards_routes
from app.pages.diagnose import routes as diagnose_routes
from app.pages.difference import routes as difference_routes
from app.pages.docs import routes as docs_routes
from app.pages.estimate import routes as estimate_routes
from app.pages.files import routes as files_routes
from app.pages.inference import routes as inference_routes
from app.pages.lesson import routes as lesson_routes
from app.pages.limits import routes as limits_routes
from app.pages.models import routes as models_routes
from app.pages.plan import routes as plan_routes
from app.pages.run import routes as run_routes
from app.pages.validation import routes as validation_routes

#: The routes of every page.
PAGES = (
    estimate_routes,
    plan_routes,
    files_routes,
    limits_routes,
    run_routes,
    difference_routes,
    diagnose_routes,
    inference_routes,
    lesson_routes,
    models_routes,
    cards_routes,
    validation_routes,
    docs_routes,
)
