"""Settings that all tests share: no deadline for examples, and libraries that are left as they were."""

import gc
import os
import sys
from functools import cache
from pkgutil import resolve_name

import pytest
from hypothesis import settings

# One thread for PyTorch, here and in the processes that tests start. With more, threads of a busy machine wait for each
# other in loops: a run of small layers took 7 s of CPU time by one thread, and minutes by two.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Pages are sent whole, however busy the machine is. Tests of pages in parts state their own.
os.environ.setdefault("WHOLE_PAGE_MILLISECONDS", "600000")

settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect no garbage while files are imported, since what they define stays. It would take a sixth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(scope="session")
def app():
    """One application for all tests: it builds its documentation once."""
    from app.application import application  # the calculator's tests need no web server

    return application()


@pytest.fixture(scope="session")
def origin(app):
    """The address of a server that runs for the whole session."""
    from tests.serving import served  # as above

    with served(app) as address:
        yield address


@pytest.fixture(autouse=True, scope="module")
def _frozen_imports():
    """Leave what is imported out of garbage collections, one of which precedes each trace and each measured moment."""
    gc.freeze()
    yield
    gc.collect()
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _empty_code_books():
    """Drop the code books that a test leaves in bitsandbytes: those on the meta device have no data for later tests."""
    yield
    functional = sys.modules.get("bitsandbytes.functional")
    if functional is not None:
        functional.name2qmap.clear()


@pytest.fixture(autouse=True)
def _restored_functions():
    """Fail a test that leaves a library's function replaced: a trace in a later test would use the replacement."""
    yield
    if "validation.tracing.shims" in sys.modules:
        left = [name for name, module, function, replacement in _replaced() if getattr(module, function) is replacement]
        assert not left


@cache
def _replaced():
    """Each function that a trace replaces in torch and transformers, with its module and its replacement."""
    from validation.tracing import shims  # it imports torch, which few tests need

    found = []
    for name, replacement in (
        shims.FUSED | shims.VALUE_CHECKS | shims.WARNING | shims.FLASH_ATTN | shims.AUTOCAST
    ).items():
        module, _, function = name.rpartition(".")
        found.append((name, resolve_name(module), function, replacement))
    return found
