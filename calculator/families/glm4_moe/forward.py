"""GLM 4.5 to 4.7 and Solar Open: grouped or latent attention, with DeepSeek V3's experts."""

from __future__ import annotations

from calculator.families.deepseek.forward import DEEPSEEK_V3, WithSharedExperts
from calculator.layers import norms, routers
from calculator.layers.decoder_forward import DecoderForward
from calculator.layers.decoder_layer import SequentialLayer
from calculator.layers.mixture import in_sparse_layers
from calculator.layers.self_attention import SelfAttention, norm_after_projections, rotate_part

_EXPERTS = in_sparse_layers(WithSharedExperts(router=routers.sigmoid_with_correction))

GLM4_MOE = DecoderForward(
    layer=SequentialLayer(
        attention=SelfAttention(
            project=norm_after_projections(norms.rms_norm, transposes_first=False), rotate=rotate_part
        ),
        mlp=_EXPERTS,
    ),
    partial_rotary=True,
)

GLM4_MOE_LITE = DEEPSEEK_V3

SOLAR_OPEN = DecoderForward(layer=SequentialLayer(mlp=_EXPERTS))
