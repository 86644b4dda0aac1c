"""One client for all tests of the app, and a plan."""

import pytest
from fastapi.testclient import TestClient


@pytest.fixture(scope="session")
def client(app):
    with TestClient(app, raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture
def plan():
    """A request that is answered."""
    return {
        "model": "meta-llama/Llama-3.1-8B",
        "method": {"name": "qlora", "r": 16, "target_modules": "all-linear"},
        "training": {"sequence_length": 2048, "gradient_checkpointing": True},
        "device": {"gpu": "rtx-4090"},
    }
