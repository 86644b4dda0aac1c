"""The request's `training.images` object."""

from dataclasses import dataclass

from calculator.inputs.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """The images of each sequence, and how the processor resizes them."""

    images_per_sequence: int = setting(
        0,
        label="Images per sequence",
        help="Images in each sequence of a model that reads images; 0 means text only, for which its vision tower "
        "does not run. An image's tokens are part of sequence_length.",
        minimum=0,
        maximum=1024,
        example=1,
    )
    image_height: int = setting(
        1024,
        label="Image height",
        help="Height of an image before the processor resizes it.",
        minimum=1,
        maximum=1_000_000,
        unit="pixels",
        example=1008,
    )
    image_width: int = setting(
        1024,
        label="Image width",
        help="Width of an image before the processor resizes it.",
        minimum=1,
        maximum=1_000_000,
        unit="pixels",
        example=1792,
    )
    min_pixels: int | None = setting(
        None,
        label="Fewest pixels",
        help="The processor enlarges smaller images (min_pixels); null means the value of the published checkpoints. "
        "Only with models whose processor keeps the proportions of an image.",
        minimum=1,
        maximum=1 << 40,
        unit="pixels",
        example=200_704,
        empty="the checkpoint's",
    )
    max_pixels: int | None = setting(
        None,
        label="Most pixels",
        help="The processor reduces larger images (max_pixels); null means the value of the published checkpoints. "
        "Only with models whose processor keeps the proportions of an image.",
        minimum=1,
        maximum=1 << 40,
        unit="pixels",
        example=1_003_520,
        empty="the checkpoint's",
    )
