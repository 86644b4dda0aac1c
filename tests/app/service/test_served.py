"""The application of a process that answers long requests."""

import threading

from app.application import application
from app.service import served


def test_the_openapi_document_is_built_before_it_is_requested(monkeypatch):
    app = application()
    monkeypatch.setattr(served, "_ready", lambda: app)
    monkeypatch.setattr(served.os, "nice", lambda _: None)
    monkeypatch.setattr("app.application.document", lambda _: {"built": True})
    served.long_served()
    for thread in threading.enumerate():
        if thread.name == "openapi":
            thread.join()
    assert app.openapi_schema == {"built": True}
