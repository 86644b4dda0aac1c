"""The request's `training.images` object."""

from dataclasses import dataclass

from calculator.inputs.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """The images of each sequence, and how the processor resizes them."""

    images_per_sequence: int = setting(
        0,
        label="Images per sequence",
        help="Images in each sequence, for a model that reads images. With 0, sequences are text only and the vision "
        "tower does not run. An image's tokens count towards sequence_length.",
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
        label="Minimum pixels",
        help="The processor enlarges images with fewer pixels (min_pixels); null means the value of the published "
        "checkpoints. Only with models whose processor keeps an image's aspect ratio.",
        minimum=1,
        maximum=1 << 40,
        unit="pixels",
        example=200_704,
        empty="the checkpoint's",
    )
    max_pixels: int | None = setting(
        None,
        label="Maximum pixels",
        help="The processor reduces images with more pixels (max_pixels); null means the value of the published "
        "checkpoints. Only with models whose processor keeps an image's aspect ratio.",
        minimum=1,
        maximum=1 << 40,
        unit="pixels",
        example=1_003_520,
        empty="the checkpoint's",
    )
