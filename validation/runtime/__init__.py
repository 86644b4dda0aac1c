"""The memory check of a running training. It needs torch and transformers, and nothing else of the app."""

from validation.runtime.check import MemoryCheck

__all__ = ["MemoryCheck"]
