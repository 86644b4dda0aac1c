"""The weights of Gemma 4 12B's embedders, which project patches of pixels and frames of sound without a tower.

Source: transformers/models/gemma4_unified/modeling_gemma4_unified.py, Gemma4UnifiedModel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.config import Check, Computed
from calculator.architecture.module import bare, linear, norm
from calculator.common.errors import shown
from calculator.families.fields import number, size

if TYPE_CHECKING:
    from calculator.architecture.config import Config, Entry
    from calculator.families.family import Parts


def _other_width(config: Config) -> str | None:
    projected, embedded = config["output_proj_dims"], config["mm_embed_dim"]
    if projected == embedded:
        return None
    return f"must be mm_embed_dim, {shown(embedded)}, which transformers projects, not {shown(projected)}"


#: Source: transformers/models/gemma4_unified/configuration_gemma4_unified.py, Gemma4UnifiedVisionConfig.
UNIFIED_VISION: tuple[Entry, ...] = (
    size("patch_size", 16),
    size("pooling_kernel_size", 3),
    size("mm_embed_dim", 3840),
    size("mm_posemb_size", 1120),
    size("output_proj_dims", 3840),
    Check(name="output_proj_dims", problem=_other_width),
    number("rms_norm_eps", 1e-6),
    Computed(name="patch_pixels", value=lambda config: 3 * (config["patch_size"] * config["pooling_kernel_size"]) ** 2),
)

#: Source: the same file, Gemma4UnifiedAudioConfig.
UNIFIED_AUDIO: tuple[Entry, ...] = (size("audio_embed_dim", 640),)


def embedders(vision: Config | None, audio: Config | None, hidden: int) -> Parts:
    """Return Gemma4UnifiedVisionEmbedder and the projection of sound, each if the model has it."""
    return (
        *(_image_modules(vision, hidden) if vision else ()),
        *((linear("model.embed_audio.embedding_projection", audio["audio_embed_dim"], hidden),) if audio else ()),
    )


def _image_modules(vision: Config, hidden: int) -> Parts:
    path, pixels, width = "model.embed_vision", vision["patch_pixels"], vision["mm_embed_dim"]
    return (
        bare(path, "other", pos_embedding=(vision["mm_posemb_size"], 2, width)),
        norm(f"{path}.patch_ln1", pixels, bias=True),
        linear(f"{path}.patch_dense", pixels, width, bias=True),
        norm(f"{path}.patch_ln2", width, bias=True),
        norm(f"{path}.pos_norm", width, bias=True),
        linear(f"{path}.multimodal_embedder.embedding_projection", width, hidden),
    )
