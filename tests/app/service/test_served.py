"""The application of a process that answers long requests."""

import threading

from app.application import application
from app.presentation.templates import compile_pages, environment
from app.service import served


def test_the_openapi_document_is_built_before_it_is_requested(monkeypatch):
    app = application()
    monkeypatch.setattr(served, "_ready", lambda: app)
    monkeypatch.setattr(served.os, "nice", lambda _: None)
    monkeypatch.setattr("app.application.document", lambda *_: {"built": True})
    served.long_served()
    for thread in threading.enumerate():
        if thread.name == "openapi":
            thread.join()
    assert app.openapi_schema == {"built": True}


def test_the_openapi_document_waits_for_requests_until_it_is_read_itself(monkeypatch):
    app = application()
    steps = []

    def document(_, pause):
        for step in range(3):
            pause()
            steps.append(step)
        return {"built": True}

    monkeypatch.setattr("app.application.document", document)
    built = threading.Thread(target=app.build_openapi, args=(lambda: len(steps) == 2,), daemon=True)
    built.start()
    while len(steps) < 2:
        built.join(0.001)
    built.join(0.1)
    assert steps == [0, 1]
    assert app.openapi() == {"built": True}
    assert steps == [0, 1, 2]


def test_the_templates_of_all_pages_are_compiled_before_one_is_shown():
    assert environment.cache is not None
    environment.cache.clear()
    compile_pages()
    assert {"estimate/page.html", "plan/page.html"} < {name for _, name in environment.cache}
