"""What distinguishes the image encoders that are imported: one table of plain values for all of them.

DINOv3 (arXiv 2508.10104), DINOv2 (2304.07193) with and without registers (2309.16588), SigLIP and SigLIP 2
(2502.14786), MAE (2111.06377), CLIP (2103.00020). All are pre-norm ViTs; `image_vit.py` computes them.
"""

import dataclasses
from typing import Any

from rvm_jax.errors import UserError
from rvm_jax.models import positions

IMAGENET = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}
ROPE_THETA = 100.0


@dataclasses.dataclass(frozen=True)
class ImageArchitecture:
    """All that decides which parameters an image encoder has and what it computes from them; stored with exports."""

    family: str  # a key of FAMILIES
    patch_size: int
    image_size: int  # pixels along a side that it was trained at; others work too
    width: int
    layers: int
    heads: int
    mlp: int  # width of the hidden layer
    cls: bool  # has a CLS token
    registers: int
    mask_token: bool  # has one that was trained
    activation: str  # of the MLP: a key of image_vit.ACTIVATIONS
    gated: bool  # MLP: activation(gate(x)) * dense_in(x), instead of activation(dense_in(x))
    patch_bias: bool
    query_bias: bool
    key_bias: bool
    value_bias: bool
    out_bias: bool
    mlp_bias: bool
    layer_scale: bool  # a factor for each channel at the end of both halves of a block
    pre_norm: bool  # embeddings are normed before the first block
    final_norm: bool  # has a norm for all tokens after the last block
    epsilon: float  # of every LayerNorm
    position_grid: tuple[int, ...]  # rows and columns of the learned position table, () without one
    interpolation: str  # how that table is resized for other grids, a key of INTERPOLATIONS; '' without one
    rope_periods: tuple[float, ...]  # of axial RoPE, head_dim / 4 of them, in patches of [-1, 1]; () without
    mean: tuple[float, ...]  # of the pixels it wants: (x - mean) / std of pixels in [0, 1]
    std: tuple[float, ...]

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.width // self.heads

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches: CLS and registers."""
        return self.cls + self.registers


# How a position table is resized: the kernel of `positions.resize_weights`, and what is added to the new size in the
# scale. 'offset' is DINOv2's own code, 'size_antialias' the same with registers and Hugging Face's model for it.
INTERPOLATIONS = {
    'size': ('torch', 0.0),
    'size_antialias': ('jax', 0.0),  # PyTorch's antialiased bicubic is Keys' kernel with a=-0.5, unlike its plain one
    'offset': ('torch', 0.1),
    'linear_antialias': ('linear', 0.0),
}

_PLAIN: dict[str, Any] = {  # what most families have
    'patch_size': 16,
    'image_size': 224,
    'cls': True,
    'registers': 0,
    'mask_token': False,
    'activation': 'erf',
    'gated': False,
    'patch_bias': True,
    'query_bias': True,
    'key_bias': True,
    'value_bias': True,
    'out_bias': True,
    'mlp_bias': True,
    'layer_scale': False,
    'pre_norm': False,
    'final_norm': True,
    'epsilon': 1e-6,
    'interpolation': 'size',
    **IMAGENET,
}
FAMILIES = {
    'dinov3': _PLAIN
    | {
        'registers': 4,
        'mask_token': True,
        'key_bias': False,
        'layer_scale': True,
        'epsilon': 1e-5,
        'interpolation': '',
    },
    'dinov2': _PLAIN | {'patch_size': 14, 'image_size': 518, 'mask_token': True, 'layer_scale': True},
    'siglip2': _PLAIN
    | {'image_size': 256, 'cls': False, 'activation': 'tanh', 'mean': (0.5, 0.5, 0.5), 'std': (0.5, 0.5, 0.5)},
    'mae': _PLAIN,
    'clip': _PLAIN
    | {
        'activation': 'quick',
        'patch_bias': False,
        'pre_norm': True,
        'final_norm': False,
        'epsilon': 1e-5,
        'mean': (0.48145466, 0.4578275, 0.40821073),
        'std': (0.26862954, 0.26130258, 0.27577711),
    },
}


def make(family: str, *, width: int, layers: int, heads: int, **differences: Any) -> ImageArchitecture:
    """An ImageArchitecture of a family: its sizes, and what else differs from the family's usual values.

    mlp is 4 x width unless given; the position table is that of image_size, or for DINOv3 RoPE with theta 100.
    """
    values = FAMILIES[family] | {'width': width, 'layers': layers, 'heads': heads, 'mlp': 4 * width} | differences
    rows = values['image_size'] // values['patch_size']
    has_table = bool(values['interpolation'])
    values.setdefault('position_grid', (rows, rows) if has_table else ())
    values.setdefault('rope_periods', () if has_table else positions.rope_periods(width // heads, ROPE_THETA))
    return ImageArchitecture(family=family, **values)


_SIZES: dict[str, dict[str, Any]] = {
    's': {'width': 384, 'layers': 12, 'heads': 6},
    'b': {'width': 768, 'layers': 12, 'heads': 12},
    'l': {'width': 1024, 'layers': 24, 'heads': 16},
    'h': {'width': 1280, 'layers': 32, 'heads': 16},
    'tiny': {'width': 64, 'layers': 4, 'heads': 2, 'patch_size': 8, 'image_size': 48},  # ours, for a CPU
}
_RELEASED: dict[str, dict[str, dict[str, Any]]] = {  # family -> size -> what differs there
    'dinov3': {'s': {}, 'b': {}, 'l': {}, 'h': {'heads': 20, 'activation': 'silu', 'gated': True}},  # h is H+
    'dinov2': {'s': {}, 'b': {}, 'l': {}},
    'siglip2': {'b': {}, 'l': {}},
    'mae': {'b': {}, 'l': {}, 'h': {'patch_size': 14}},
    'clip': {'b': {}, 'l': {'patch_size': 14}},
}
STANDARD = {
    (family, size): make(family, **_SIZES[size] | differences)
    for family, sizes in _RELEASED.items()
    for size, differences in {**sizes, 'tiny': {}}.items()
}


def standard(family: str, size: str) -> ImageArchitecture:
    """The ImageArchitecture that was released under this name; raises UserError naming the sizes there are."""
    if family not in FAMILIES:
        raise UserError(f'encoder={family!r}', 'is not an image encoder', f'take one of {", ".join(FAMILIES)}')
    if (family, size) not in STANDARD:
        sizes = ', '.join(name for other, name in STANDARD if other == family)
        raise UserError(f'config.model.size={size}', f'{family} does not have this size', f'take one of {sizes}')
    return STANDARD[family, size]
