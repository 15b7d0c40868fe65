"""DINOv3 (facebookresearch/dinov3): names and sizes in Hugging Face folders and in the original `.pth`."""

import numpy as np

from rvm_jax.conversion import layouts
from rvm_jax.conversion.hugging_face import Config
from rvm_jax.conversion.weight_files import Weights
from rvm_jax.errors import UserError
from rvm_jax.models import positions
from rvm_jax.models.encoders import image_architecture
from rvm_jax.models.encoders.image_architecture import ImageArchitecture

LICENSE = ('DINOv3 License', 'own terms with use restrictions, accepted at download; passing weights on passes them on')
DEFAULTS = {
    'dinov3_vit': {
        'hidden_size': 384,
        'intermediate_size': 1536,
        'num_attention_heads': 6,
        'layer_norm_eps': 1e-5,
        'rope_theta': 100.0,
        'query_bias': True,
        'key_bias': False,
        'value_bias': True,
        'proj_bias': True,
        'mlp_bias': True,
        'use_gated_mlp': False,
        'num_register_tokens': 0,
    }
}
IGNORED = {
    'local_cls_norm.*': 'norms the CLS token of small crops, in training alone',
    'classifier.*': 'a head on top of the encoder',
}


def layer_rows(start: str) -> tuple[tuple[str, str], ...]:
    """Rows of a layout's table for what is in a layer, whose keys begin with start."""
    return (
        (f'{start}norm1.*', 'layers/#/attention_norm/*'),
        (f'{start}norm2.*', 'layers/#/mlp_norm/*'),
        *layouts.projections(f'{start}attention.'),
        (f'{start}layer_scale1.lambda1', 'layers/#/attention_scale/scale'),
        (f'{start}layer_scale2.lambda1', 'layers/#/mlp_scale/scale'),
        (f'{start}mlp.up_proj.*', 'layers/#/mlp/dense_in/*'),
        (f'{start}mlp.gate_proj.*', 'layers/#/mlp/gate/*'),
        (f'{start}mlp.down_proj.*', 'layers/#/mlp/dense_out/*'),
    )


HUGGING_FACE = layouts.Layout(
    'dinov3',
    marks=(
        'embeddings.patch_embeddings.weight',  # others have a projection in it
        'layer.0.attention.q_proj.weight',
        'layer.0.layer_scale1.lambda1',
    ),
    table=(
        ('embeddings.cls_token', 'cls_token'),
        ('embeddings.register_tokens', 'register_tokens'),
        ('embeddings.mask_token', 'mask_token'),
        ('embeddings.patch_embeddings.*', 'patch_embed/*'),
        *layer_rows('layer.#.'),
        *layer_rows('model.layer.#.'),  # save_original_format=False of transformers 5
        ('norm.*', 'norm/*'),
    ),
    ignored=IGNORED,
    prefixes=('', 'model.', 'dinov3_vit.'),
)
ORIGINAL = layouts.Layout(
    'dinov3',
    marks=('storage_tokens', 'rope_embed.periods'),
    table=(
        *layouts.TIMM,
        ('storage_tokens', 'register_tokens'),
        ('mask_token', 'mask_token'),
        ('blocks.#.mlp.w1.*', 'layers/#/mlp/gate/*'),
        ('blocks.#.mlp.w2.*', 'layers/#/mlp/dense_in/*'),
    ),
    ignored=IGNORED
    | {
        'rope_embed.periods': 'belongs to the architecture',
        'blocks.#.attn.qkv.bias_mask': 'says that the bias of keys is zero, which has none here',
        'dino_head.*': 'a head of training',
        'ibot_head.*': 'a head of training',
    },
    prefixes=('', 'backbone.', 'module.', 'teacher.backbone.'),
)


def from_config(model_type: str, config: Config) -> ImageArchitecture:
    """The ImageArchitecture that a config.json states."""
    sizes = config.sizes() | config.image_size()
    return image_architecture.make(
        'dinov3',
        **sizes,
        rope_periods=_periods(config, sizes['width'] // sizes['heads']),
        registers=config.integer('num_register_tokens', low=0),
        gated=config.boolean('use_gated_mlp'),
        query_bias=config.boolean('query_bias'),
        key_bias=config.boolean('key_bias'),
        value_bias=config.boolean('value_bias'),
        out_bias=config.boolean('proj_bias'),
        mlp_bias=config.boolean('mlp_bias'),
    )


def _periods(config, head_dim):
    if head_dim % 4:
        raise UserError(config.path, f'its heads have {head_dim} channels, not a multiple of 4', 'download it again')
    return positions.rope_periods(head_dim, config.number('rope_theta', 1e-3, 1e9))


def from_original(weights: Weights, prefix: str) -> ImageArchitecture:
    """The ImageArchitecture of an original checkpoint, from its shapes and the RoPE periods that it stores.

    Those are rounded to bfloat16 and were so in training; what recomputes them differs in deep features.
    """
    shapes = layouts.stripped(weights, prefix)
    sizes = layouts.original_sizes(weights, prefix)
    if 'rope_embed.periods' not in shapes:
        raise UserError(weights.path, 'lacks rope_embed.periods', 'give the file as it was released')
    periods = layouts.read_one(weights, prefix, 'rope_embed.periods').ravel()
    head_dim = 4 * len(periods)
    if not head_dim or sizes['width'] % head_dim or not np.all(np.isfinite(periods) & (periods > 0)):
        raise UserError(weights.path, 'its rope_embed.periods make no sense', 'give the file as it was released')
    gated = 'blocks.0.mlp.w1.weight' in shapes
    has_qkv_bias = 'blocks.0.attn.qkv.bias' in shapes
    return image_architecture.make(
        'dinov3',
        **sizes,
        heads=sizes['width'] // head_dim,
        rope_periods=tuple(float(period) for period in periods),
        registers=layouts.num_registers(weights, prefix, 'storage_tokens'),
        gated=gated,
        activation='silu' if gated else 'erf',
        query_bias=has_qkv_bias,
        value_bias=has_qkv_bias,
    )
