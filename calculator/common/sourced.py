"""Constants with their sources."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sourced:
    """A number of bytes that was read from source code or measured, with its source."""

    name: str
    bytes: int
    source: str

    def __post_init__(self) -> None:
        """Raise an error for a constant without a name or a source, or with a negative value."""
        if not self.name.strip() or not self.source.strip():
            raise ValueError(f"{self.name or 'a constant'} of {self.bytes:,} bytes needs a name and a source")
        if self.bytes < 0:
            raise ValueError(f"{self.name} must not be negative: {self.bytes:,} bytes")
