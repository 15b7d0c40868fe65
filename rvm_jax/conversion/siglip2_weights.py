"""SigLIP and SigLIP 2 (google-research/big_vision): names and sizes of their image side in Hugging Face folders."""

import math

from rvm_jax.conversion import layouts
from rvm_jax.conversion.hugging_face import Config
from rvm_jax.errors import UserError
from rvm_jax.models.encoders import image_architecture
from rvm_jax.models.encoders.image_architecture import ImageArchitecture

LICENSE = ('Apache-2.0', 'as the model pages say')
_SIGLIP = {'hidden_act': 'gelu_pytorch_tanh'}
_NAFLEX = _SIGLIP | {'num_patches': 256}  # any aspect ratio; its table is resized for every image
DEFAULTS = {'siglip': _SIGLIP, 'siglip_vision_model': _SIGLIP, 'siglip2': _NAFLEX, 'siglip2_vision_model': _NAFLEX}
BLOCKS = (  # shared with CLIP
    ('embeddings.patch_embedding.*', 'patch_embed/*'),
    ('embeddings.position_embedding.weight', 'position_table'),
    ('encoder.layers.#.layer_norm1.*', 'layers/#/attention_norm/*'),
    ('encoder.layers.#.layer_norm2.*', 'layers/#/mlp_norm/*'),
    ('encoder.layers.#.self_attn.q_proj.*', 'layers/#/attention/query/*'),
    ('encoder.layers.#.self_attn.k_proj.*', 'layers/#/attention/key/*'),
    ('encoder.layers.#.self_attn.v_proj.*', 'layers/#/attention/value/*'),
    ('encoder.layers.#.self_attn.out_proj.*', 'layers/#/attention/out/*'),
    ('encoder.layers.#.mlp.fc1.*', 'layers/#/mlp/dense_in/*'),
    ('encoder.layers.#.mlp.fc2.*', 'layers/#/mlp/dense_out/*'),
)
AROUND = {  # shared with CLIP
    'text_model.*': 'the text side',
    'logit_*': 'scales the match of image and text',
    'embeddings.position_ids': '0, 1, 2 ...',
    'classifier.*': 'a head on top of the encoder',
}
HUGGING_FACE = layouts.Layout(
    'siglip2',
    marks=('embeddings.patch_embedding.weight',),
    table=(*BLOCKS, ('post_layernorm.*', 'norm/*')),
    ignored=AROUND | {'head.*': 'pools the tokens into one'},
    prefixes=('', 'vision_model.', 'model.vision_model.'),
)


def from_config(model_type: str, config: Config) -> ImageArchitecture:
    """The ImageArchitecture that a config.json states."""
    sizes = config.sizes()
    if 'num_patches' not in config.values:
        return image_architecture.make('siglip2', **sizes, **config.image_size())
    patches = config.integer('num_patches')
    rows = math.isqrt(patches)
    if rows * rows != patches:
        raise UserError(config.path, f'num_patches={patches} is not a square number', 'download it again')
    return image_architecture.make(
        'siglip2', **sizes, image_size=rows * sizes['patch_size'], interpolation='linear_antialias'
    )
