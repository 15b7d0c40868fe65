"""DINOv2 (facebookresearch/dinov2), with and without registers: names and sizes in folders and original `.pth`."""

from typing import Any

from rvm_jax.conversion import layouts
from rvm_jax.conversion.hugging_face import Config
from rvm_jax.conversion.weight_files import Weights
from rvm_jax.errors import UserError
from rvm_jax.models.encoders import image_architecture
from rvm_jax.models.encoders.image_architecture import ImageArchitecture

LICENSE = ('Apache-2.0', 'code and weights')
DEFAULTS = {
    'dinov2': {'patch_size': 14},
    'dinov2_with_registers': {'num_register_tokens': 4},
}
HEAD_DIM = 64  # in all that were released; an original checkpoint does not state it
HUGGING_FACE = layouts.Layout(
    'dinov2',
    marks=('encoder.layer.0.norm1.weight', 'encoder.layer.0.layer_scale1.lambda1'),
    table=(
        ('embeddings.cls_token', 'cls_token'),
        ('embeddings.register_tokens', 'register_tokens'),
        ('embeddings.mask_token', 'mask_token'),
        ('embeddings.position_embeddings', 'position_table'),
        ('embeddings.patch_embeddings.projection.*', 'patch_embed/*'),
        ('encoder.layer.#.norm1.*', 'layers/#/attention_norm/*'),
        ('encoder.layer.#.norm2.*', 'layers/#/mlp_norm/*'),
        *layouts.projections('encoder.layer.#.attention.'),  # save_original_format=False of transformers 5
        ('encoder.layer.#.mlp.gate_proj.*', 'layers/#/mlp/gate/*'),
        ('encoder.layer.#.mlp.up_proj.*', 'layers/#/mlp/dense_in/*'),
        ('encoder.layer.#.mlp.down_proj.*', 'layers/#/mlp/dense_out/*'),
        ('encoder.layer.#.attention.attention.*', 'layers/#/attention/*'),
        ('encoder.layer.#.attention.output.dense.*', 'layers/#/attention/out/*'),
        ('encoder.layer.#.layer_scale1.lambda1', 'layers/#/attention_scale/scale'),
        ('encoder.layer.#.layer_scale2.lambda1', 'layers/#/mlp_scale/scale'),
        ('encoder.layer.#.mlp.fc1.*', 'layers/#/mlp/dense_in/*'),
        ('encoder.layer.#.mlp.fc2.*', 'layers/#/mlp/dense_out/*'),
        ('encoder.layer.#.mlp.weights_in.*', 'layers/#/mlp/gate_and_in/*'),
        ('encoder.layer.#.mlp.weights_out.*', 'layers/#/mlp/dense_out/*'),
        ('layernorm.*', 'norm/*'),
    ),
    ignored={'classifier.*': 'a head on top of the encoder'},
    prefixes=('', 'dinov2.', 'dinov2_with_registers.', 'model.'),
)
ORIGINAL = layouts.Layout(
    'dinov2',
    marks=('blocks.0.ls1.gamma', 'register_tokens'),
    table=(
        *layouts.TIMM,
        ('register_tokens', 'register_tokens'),
        ('mask_token', 'mask_token'),
        ('blocks.#.mlp.w12.*', 'layers/#/mlp/gate_and_in/*'),
    ),
    ignored={'dino_head.*': 'a head of training', 'ibot_head.*': 'a head of training'},
    prefixes=('', 'backbone.', 'module.', 'teacher.backbone.'),
)


def from_config(model_type: str, config: Config) -> ImageArchitecture:
    """The ImageArchitecture that a config.json states."""
    width = config.integer('hidden_size')
    hidden = int(width * config.number('mlp_ratio', 0.01, 64))
    gated = config.boolean('use_swiglu_ffn')
    if gated:
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
    bias = config.boolean('qkv_bias')
    differences: dict[str, Any] = {
        'mlp': hidden,
        'gated': gated,
        'query_bias': bias,
        'key_bias': bias,
        'value_bias': bias,
    }
    if gated:
        differences['activation'] = 'silu'
    if model_type == 'dinov2_with_registers':
        differences |= {'registers': config.integer('num_register_tokens', low=0), 'interpolation': 'size_antialias'}
    return image_architecture.make('dinov2', **config.sizes() | config.image_size() | differences)


def from_original(weights: Weights, prefix: str) -> ImageArchitecture:
    """The ImageArchitecture of an original checkpoint, from its shapes."""
    shapes = layouts.stripped(weights, prefix)
    sizes = layouts.original_sizes(weights, prefix)
    if sizes['width'] % HEAD_DIM:
        raise UserError(
            weights.path, f'is {sizes["width"]} wide; heads of {HEAD_DIM} do not fit', 'give a released one'
        )
    registers = layouts.num_registers(weights, prefix, 'register_tokens')
    gated = 'blocks.0.mlp.w12.weight' in shapes
    bias = 'blocks.0.attn.qkv.bias' in shapes
    return image_architecture.make(
        'dinov2',
        **sizes,
        heads=sizes['width'] // HEAD_DIM,
        registers=registers,
        gated=gated,
        activation='silu' if gated else 'erf',
        query_bias=bias,
        key_bias=bias,
        value_bias=bias,
        interpolation='size_antialias' if registers else 'offset',
    )
