"""What holds for all tests: an example may take as long as a busy machine needs, since no figure is timed by it."""

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
