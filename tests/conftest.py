"""What all tests share: no deadline for examples, and an empty cache of quantization code books."""

import sys

import pytest
from hypothesis import settings

settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")


@pytest.fixture(autouse=True)
def _empty_code_books():
    """Drop the code books that a test leaves in bitsandbytes: those on the meta device have no data for later tests."""
    yield
    functional = sys.modules.get("bitsandbytes.functional")
    if functional is not None:
        functional.name2qmap.clear()
