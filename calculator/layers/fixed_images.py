"""Processors that resize every image to one size, or to one size of a list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import refusal

if TYPE_CHECKING:
    from calculator.inputs.images import Images


def no_limits(images: Images) -> None:
    """Refuse limits of pixels.

    Raises:
        PlanError: if one is set.
    """
    for name in ("min_pixels", "max_pixels"):
        value = getattr(images, name)
        if value is not None:
            message = "this model's processor has no limits of pixels, since it resizes images to given sizes: use null"
            raise refusal(f"training.images.{name}", message, value)
