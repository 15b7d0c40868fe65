"""CLIP (openai/CLIP, mlfoundations/open_clip): names and sizes of its image side in Hugging Face folders."""

from rvm_jax.conversion import layouts, siglip2_weights
from rvm_jax.conversion.hugging_face import Config
from rvm_jax.models.encoders import image_architecture
from rvm_jax.models.encoders.image_architecture import ImageArchitecture

LICENSE = ('MIT', "OpenAI's and LAION's weights")
_CLIP = {'patch_size': 32, 'hidden_act': 'quick_gelu', 'layer_norm_eps': 1e-5}
DEFAULTS = {'clip': _CLIP, 'clip_vision_model': _CLIP}
HUGGING_FACE = layouts.Layout(
    'clip',
    marks=('pre_layrnorm.weight', 'embeddings.class_embedding'),
    table=(
        *siglip2_weights.BLOCKS,
        ('embeddings.class_embedding', 'cls_token'),
        ('pre_layrnorm.*', 'pre_norm/*'),  # spelled so
    ),
    ignored=siglip2_weights.AROUND
    | {
        'post_layernorm.*': 'trained on the pooled CLS token alone',
        'visual_projection.*': 'to the space shared with text',
        'text_projection.*': 'the text side',
    },
    prefixes=('', 'vision_model.', 'model.vision_model.'),
)


def from_config(model_type: str, config: Config) -> ImageArchitecture:
    """The ImageArchitecture that a config.json states."""
    return image_architecture.make('clip', **config.sizes(), **config.image_size())
