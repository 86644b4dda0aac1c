"""Settings of all tests: Hypothesis has no deadline, because a busy machine may be slow."""

from hypothesis import settings

settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
