"""Every handler except the health check runs in a thread, so that a computation does not block other requests."""

from concurrent.futures import ThreadPoolExecutor
from inspect import iscoroutinefunction
from statistics import median
from threading import Event
from time import perf_counter

import pytest

from app import api
from app.application import ALL_ROUTERS
from app.pages.difference import view as difference_view
from app.pages.estimate import routes as estimate_routes
from app.service import direct_estimates
from calculator.common.errors import PlanError, Problem
from calculator.estimation.recent_series import RECENT_SERIES

#: Longer than anything here takes, in seconds.
PATIENCE = 20

#: A plan that the allocator is replayed over, which takes seconds.
SLOW = {
    "model": "meta-llama/Llama-3.1-8B",
    "methods": [{"name": "lora", "r": rank} for rank in range(1, 65)],
    "reserved": "replay",
}

#: A request that an estimate answers in a thread.
REPLAYED = {"model": "gpt2", "method": {"name": "lora"}, "reserved": "replay"}


def test_only_the_health_checks_are_coroutines():
    routes = [route for router in ALL_ROUTERS for route in router.routes]
    assert [route.path for route in routes if iscoroutinefunction(route.endpoint)] == ["/healthz", "/readyz"]


@pytest.mark.parametrize(
    ("verb", "path", "module", "name"),
    [
        *(
            ("POST", module.EXAMPLES.path, module, "answer")
            for module in api.ENDPOINTS
            if hasattr(module.EXAMPLES, "path") and module is not api.estimate
        ),
        ("POST", "/api/v1/estimate", direct_estimates, "answer_text_of"),
        ("GET", "/estimate.json", api.estimate, "answer_text"),
        ("GET", "/compare.json", api.compare, "answer"),
        ("GET", "/plan.json", api.plan, "answer"),
        ("GET", "/inference.json", api.inference, "answer"),
        ("GET", "/", estimate_routes, "plan_page"),
        ("POST", "/", estimate_routes, "read"),
        ("GET", "/difference?plan=/&plan=/", difference_view, "compared"),
        ("GET", "/api/v1/openapi.json", None, "openapi"),
        ("GET", "/openapi.json", None, "openapi"),
    ],
)
def test_the_health_check_is_answered_while_another_computes(client, app, monkeypatch, verb, path, module, name):
    begun, answered = Event(), Event()

    def blocked(*_, **__):
        begun.set()
        assert answered.wait(PATIENCE)
        raise PlanError(Problem(loc="", msg="was blocked"))

    monkeypatch.setattr(module or app, "parse_sweep" if module is api.sweep else name, blocked)
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(client.request, verb, path, json=REPLAYED)
        try:
            assert begun.wait(PATIENCE)
            assert client.get("/healthz").status_code == 200
            assert not waiting.done()
        finally:
            answered.set()
        waiting.result()


def test_the_health_check_is_much_faster_than_a_concurrent_comparison(client):
    RECENT_SERIES.clear()
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(client.post, "/api/v1/compare", json=SLOW)
        durations = []
        while not waiting.done():
            before = perf_counter()
            assert client.get("/healthz").status_code == 200
            durations.append(perf_counter() - before)
    assert waiting.result().status_code == 200
    # A busy machine may delay one check. If the comparison blocked them, no more than two would run.
    assert len(durations) >= 5
    assert median(durations) < sum(durations) / 5
