"""What an architecture costs, from shapes alone: FLOPs of a clip, and parameters.

One multiply-add is 2 FLOPs; matrix products only. Of what trains, training is 3 times the forward pass by convention,
whatever is recomputed; of what is frozen it is the forward pass. The compiler's own count cannot replace it: it
counts the body of a loop once.
"""

import functools
import math
import re
from typing import Any

import jax
from flax import nnx, traverse_util

from rvm_jax.models import build, trainable
from rvm_jax.models.architecture import Architecture
from rvm_jax.models.layer_shapes import blocks, frozen_parts, num_taps, tokens

BODY = 'encoder/(?!patch_embed/)'  # kernels of an encoder that every token goes through


def forward_flops(arch: Architecture, *, num_source: int, num_target: int, image_size: int) -> dict[str, float]:
    """FLOPs of one clip's forward pass by part; the parts do not overlap, so their sum is the whole.

    As this model computes it: hidden patches are not embedded (but for target 'mask_token'), and all targets share one
    set of source keys and values. 'encoder_features' is the frozen encoder on whole targets, which a feature loss
    wants; 'decoder_attention' the products of queries, keys and values in the decoder, 'decoder' its other work.
    Mamba's recurrence is not a matrix product and left out: 2 % of such a layer's work.
    """
    sizes = {'num_source': num_source, 'num_target': num_target, 'image_size': image_size}
    flops: dict[str, float] = {
        part: 0 for part in (*blocks(arch, **sizes), 'decoder_attention', 'embedder_detokenizer')
    }
    for part, one in blocks(arch, **sizes).items():
        scores = one.passes * sum(map(_score_flops, one.attentions))
        flops['decoder_attention' if part == 'decoder' else part] += scores
    for part, pattern, rows in _products(arch, tokens(arch, image_size), num_source, num_target):
        flops[part] += 2 * rows * _weights(arch, pattern)
    flops['adapters'] += flops.pop('aggregator')
    return flops


def train_flops_by_part(arch: Architecture, **sizes: int) -> dict[str, float]:
    """FLOPs of one clip in training by the parts of `forward_flops`: 3 times the forward pass, once what is frozen."""
    frozen = frozen_parts(arch)
    return {part: (1.0 if part in frozen else 3.0) * count for part, count in forward_flops(arch, **sizes).items()}


def train_flops(arch: Architecture, *, num_source: int, num_target: int, image_size: int) -> float:
    """FLOPs of one clip in training, all parts."""
    sizes = {'num_source': num_source, 'num_target': num_target, 'image_size': image_size}
    return sum(train_flops_by_part(arch, **sizes).values())


def _products(arch, num, num_source, num_target):
    """(part, pattern of kernels, rows of a clip that each such kernel is multiplied with)."""
    num_target = num_target if arch.decoder_width else 0
    source, query = num_source * num.source, num_target * num.query
    embedded = num_target * (num.patches if arch.target == 'mask_token' else num.visible)
    seen = num_target * (num.source if arch.target == 'mask_token' else num.seen)
    target = 'target' if arch.target == 'light_target' else 'encoder'
    whole = num_target * arch.feature_head
    shared = num_target * num.seen if arch.target == 'shared' else 0
    return (
        ('encoder_source', 'encoder/patch_embed/', num_source * num.patches),
        ('encoder_source', BODY, source),
        ('encoder_target', f'{target}/patch_embed/', embedded),
        ('encoder_target', 'target/layers/' if target == 'target' else BODY, seen),
        ('encoder_features', 'encoder/patch_embed/', whole * num.patches),
        ('encoder_features', BODY, whole * num.source),
        ('adapters', 'adapters/mlp/', num_source * num.patches),
        ('adapters', 'adapters/attention/(mlp|attention/(query|out))/', num_source * num.patches),
        ('adapters', 'adapters/attention/attention/(key|value)/', num_taps(arch) * num_source * num.patches),
        ('core', 'core/', source),
        ('decoder', 'decoder/layers/blocks/cross_attention/(key|value)/', source),
        ('decoder', 'decoder/layers/blocks/(cross_attention/(query|out)|mlp|attention)/', query),
        ('embedder_detokenizer', 'decoder/embedder/', source + shared),
        ('embedder_detokenizer', 'target/embedder/', num_target * num.seen),
        ('embedder_detokenizer', 'decoder/delta_embedder/', num_target),
        ('embedder_detokenizer', 'decoder/(detokenizer|feature_head)/', num_target * num.patches),
    )


def _weights(arch, pattern):
    """Numbers in all kernels whose path begins so; a convolution of each channel is not a matrix product."""
    return sum(size for path, size in _kernels(arch).items() if re.match(pattern, path) and '/conv/' not in path)


@functools.cache
def _kernels(arch):
    leaves = traverse_util.flatten_dict(parameters(arch), sep='/').items()
    return {path: math.prod(leaf.shape) for path, leaf in leaves if path.endswith('/kernel')}


def _score_flops(a):
    return 2 * 2 * a.groups * a.queries * a.keys * a.heads * a.head_dim


def num_parameters(arch: Architecture) -> int:
    """Parameters of a model, decoder included where it has one; nothing is allocated."""
    return sum(parameter_counts(arch).values())


def parameter_counts(arch: Architecture) -> dict[str, int]:
    """{'trained', 'frozen'}: how many parameters of each; the running statistics of a batch norm are neither."""
    trained, _, frozen = trainable.split(parameters(arch), arch)
    return {'trained': count(trained), 'frozen': count(frozen)}


@functools.cache
def parameters(arch: Architecture) -> dict[str, Any]:
    """Shapes of a model's parameters, a nested dict."""
    return nnx.to_pure_dict(nnx.state(build.abstract(arch)))


def num_bytes(tree: Any) -> int:
    """Bytes of a tree of shapes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def count(tree: Any) -> int:
    """Numbers in a tree of shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
