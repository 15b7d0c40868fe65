"""MAE (facebookresearch/mae): names and sizes of its encoder in Hugging Face folders and in the original `.pth`."""

from typing import Any

import numpy as np

from rvm_jax.conversion import layouts
from rvm_jax.conversion.hugging_face import Config
from rvm_jax.conversion.weight_files import Weights
from rvm_jax.errors import UserError
from rvm_jax.models.encoders import image_architecture
from rvm_jax.models.encoders.image_architecture import ImageArchitecture

LICENSE = ('CC-BY-NC 4.0', 'no commercial use')
DEFAULTS: dict[str, dict[str, Any]] = {'vit_mae': {}}
HEADS = {768: 12, 1024: 16, 1280: 16}  # width -> heads: an original checkpoint does not state them
EPSILON = 1e-6  # it was trained with; Hugging Face writes 1e-12, which only tiny activations can tell
HUGGING_FACE = layouts.Layout(
    'mae',
    marks=(
        'encoder.layer.0.layernorm_before.weight',
        'encoder.layer.0.intermediate.dense.weight',
        'layers.0.layernorm_before.weight',
    ),
    table=(
        ('embeddings.cls_token', 'cls_token'),
        ('embeddings.position_embeddings', 'position_table'),
        ('embeddings.patch_embeddings.projection.*', 'patch_embed/*'),
        ('encoder.layer.#.layernorm_before.*', 'layers/#/attention_norm/*'),
        ('encoder.layer.#.layernorm_after.*', 'layers/#/mlp_norm/*'),
        ('encoder.layer.#.attention.attention.*', 'layers/#/attention/*'),
        ('encoder.layer.#.attention.output.dense.*', 'layers/#/attention/out/*'),
        ('encoder.layer.#.intermediate.dense.*', 'layers/#/mlp/dense_in/*'),
        ('encoder.layer.#.output.dense.*', 'layers/#/mlp/dense_out/*'),
        # As transformers 5 names them in its own model: save_pretrained(..., save_original_format=False).
        ('layers.#.layernorm_before.*', 'layers/#/attention_norm/*'),
        ('layers.#.layernorm_after.*', 'layers/#/mlp_norm/*'),
        *layouts.projections('layers.#.attention.'),
        ('layers.#.mlp.fc1.*', 'layers/#/mlp/dense_in/*'),
        ('layers.#.mlp.fc2.*', 'layers/#/mlp/dense_out/*'),
        ('layernorm.*', 'norm/*'),
    ),
    ignored={'decoder.*': 'the decoder of its training, mask token included'},
    prefixes=('', 'vit.', 'model.'),
)
ORIGINAL = layouts.Layout(
    'mae',
    marks=('blocks.0.attn.qkv.weight',),
    table=layouts.TIMM,
    ignored={
        'decoder_*': 'the decoder of its training',
        'mask_token': 'the decoder of its training',
        'head.*': 'a head on top of the encoder',
    },
    prefixes=('', 'module.'),
)


def from_config(model_type: str, config: Config) -> ImageArchitecture:
    """The ImageArchitecture that a config.json states."""
    bias = config.boolean('qkv_bias')
    epsilon = max(config.number('layer_norm_eps', 0, 0.1), EPSILON)
    differences = {'query_bias': bias, 'key_bias': bias, 'value_bias': bias, 'epsilon': epsilon}
    return image_architecture.make('mae', **config.sizes() | config.image_size() | differences)


def from_original(weights: Weights, prefix: str) -> ImageArchitecture:
    """The ImageArchitecture of an original checkpoint, from its shapes.

    Raises UserError for other ViTs under the same names: only MAE's fixed position of the CLS token is zero.
    """
    sizes = layouts.original_sizes(weights, prefix)
    if 'image_size' not in sizes or sizes['width'] not in HEADS:
        raise UserError(
            weights.path, f'is not a released MAE encoder: it is {sizes["width"]} wide', 'give a released one'
        )
    if np.any(layouts.read_one(weights, prefix, 'pos_embed').reshape(-1, sizes['width'])[0]):
        raise UserError(
            weights.path, 'is a ViT, but not of MAE: its position of CLS is not zero', 'give a released one'
        )
    return image_architecture.make('mae', **sizes, heads=HEADS[sizes['width']])
