"""Constants with their sources."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sourced:
    """A number of bytes that was read or measured, and its source. It cannot be created without one."""

    name: str
    bytes: int
    source: str

    def __post_init__(self) -> None:
        """Refuse a constant without a name, without a source, or below zero."""
        if not self.name.strip() or not self.source.strip():
            raise ValueError(f"{self.name or 'a constant'} of {self.bytes:,} bytes needs a name and a source")
        if self.bytes < 0:
            raise ValueError(f"{self.name} must not be negative: {self.bytes:,} bytes")
