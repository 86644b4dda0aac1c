"""An application inside the service's middleware, and a client of it."""

import pytest
from fastapi.testclient import TestClient

from app.service.served import serviced
from app.service.settings import ServiceSettings


@pytest.fixture
def client_of(app):
    """A client of the application with settings of the service."""

    def client(root_path="", **settings):
        service = serviced(app, ServiceSettings(access_log=False, **settings))
        return TestClient(service, raise_server_exceptions=False, root_path=root_path)

    return client


@pytest.fixture
def run():
    """A request that takes a millisecond."""
    return {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "lora"}, "reserved": "rule"}
