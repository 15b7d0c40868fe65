"""The image encoders with random weights, and their parts against NumPy."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rvm_jax.errors import UserError
from rvm_jax.models import layers, param_names
from rvm_jax.models.encoders import image_architecture, image_vit

FAMILIES = tuple(image_architecture.FAMILIES)
VISIBLE = np.array([[3, 11, 0], [5, 2, 11]])  # of 2 x 6 patches
encode_visible = layers.compiled(image_vit.ImageEncoder.encode_visible)
encode_masked = layers.compiled(image_vit.ImageEncoder.encode_masked)


def make(family, execution=layers.Execution(), **differences):  # noqa: B008 (frozen)
    arch = image_architecture.make(
        family, width=16, layers=3, heads=2, mlp=24, patch_size=8, image_size=32, **differences
    )
    return image_vit.ImageEncoder(arch, execution=execution, rngs=nnx.Rngs(0))


def draw_pixels(seed=0, height=16, width=48):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(2, height, width, 3)), jnp.float32)


@pytest.fixture(scope='module', params=FAMILIES)
def encoder(request):
    return make(request.param)


def test_tokens_are_prefix_then_patches(encoder):
    assert encoder(draw_pixels()).shape == (2, encoder.num_prefix_tokens + 12, 16)
    assert encoder.num_prefix_tokens == {'dinov3': 5, 'siglip2': 0}.get(encoder.architecture.family, 1)


def test_tapped_outputs_are_hidden_states_after_the_norm(encoder):
    pixels = draw_pixels()
    hidden = encoder.hidden_states(pixels)
    tapped = encoder.tapped(pixels, (-1, 0, 2))
    np.testing.assert_allclose(tapped[0], hidden[0], atol=1e-5)
    for found, expected in zip(tapped[1:], (hidden[1], hidden[3]), strict=True):
        expected = np.asarray(expected)
        scale, bias = (1, 0) if encoder.norm is None else (encoder.norm.scale[...], encoder.norm.bias[...])
        expected = normed(expected, encoder.architecture.epsilon) * scale + bias
        np.testing.assert_allclose(found, expected, atol=1e-5)


def normed(x, epsilon):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)


def test_the_last_tap_is_the_output_but_for_clip(encoder):
    pixels = draw_pixels()
    last = encoder.tapped(pixels, (2,))[0]
    if encoder.architecture.family == 'clip':
        assert np.abs(last - encoder(pixels)).max() > 0.1
    else:
        np.testing.assert_allclose(last, encoder(pixels), atol=1e-5)


def test_embeddings_alone_can_be_tapped():
    encoder, pixels = make('clip'), draw_pixels()
    np.testing.assert_allclose(encoder.tapped(pixels, (-1,))[0], encoder.hidden_states(pixels)[0], atol=1e-5)


def test_all_patches_visible_is_the_whole_image_in_another_order(encoder):
    order = np.random.default_rng(0).permutation(12)
    pixels, prefix = draw_pixels(), encoder.num_prefix_tokens
    found = encode_visible(encoder, pixels, np.stack([order, order]))
    expected = encoder.tapped(pixels, (2,))[0]
    np.testing.assert_allclose(found[:, :prefix], expected[:, :prefix], atol=1e-5)
    np.testing.assert_allclose(found[:, prefix:], expected[:, prefix:][:, order], atol=1e-5)


def hide(pixels, fill):
    """The same image with other pixels wherever no patch is visible."""
    patches = np.asarray(pixels).reshape(2, 2, 8, 6, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 12, 8, 8, 3).copy()
    for image, visible in zip(patches, VISIBLE, strict=True):
        image[np.setdiff1d(np.arange(12), visible)] = fill
    return jnp.asarray(patches.reshape(2, 2, 6, 8, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 16, 48, 3))


@pytest.mark.parametrize('encode', [encode_visible, encode_masked])
def test_hidden_patches_never_reach_the_tokens(encoder, encode):
    if encode is encode_masked and not encoder.has_mask_token:
        pytest.skip('no mask token')
    found = encode(encoder, draw_pixels(), VISIBLE)
    assert found.shape == (2, encoder.num_prefix_tokens + 3, 16)
    for fill in (1e4, np.nan):
        np.testing.assert_array_equal(encode(encoder, hide(draw_pixels(), fill), VISIBLE), found)
    other = draw_pixels(1)
    assert np.abs(encode(encoder, other, VISIBLE) - found).max() > 1e-3


@pytest.mark.parametrize('family', ['dinov3', 'siglip2'])
def test_visible_patches_keep_their_place_in_the_grid(family):
    encoder, pixels = make(family), jnp.ones((1, 16, 48, 3))
    found = [encode_visible(encoder, pixels, np.array([visible])) for visible in ([0, 7], [0, 8])]
    assert np.abs(found[0] - found[1]).max() > 1e-4


def test_the_mask_token_stands_where_patches_are_hidden():
    encoder = make('dinov2')
    found = encode_masked(encoder, draw_pixels(), VISIBLE)
    encoder.mask_token[...] += jnp.linspace(-1, 1, 16)
    assert np.abs(encode_masked(encoder, draw_pixels(), VISIBLE) - found).max() > 1e-3


@pytest.mark.parametrize('shape', [(1, 7, 48, 3), (1, 16, 48, 1), (16, 48, 3), (1, 1, 16, 48, 3)])
def test_what_are_no_images_is_refused(shape):
    with pytest.raises(UserError, match=r'expected \(B, H, W, 3\) floats with at least 8 pixels a side'):
        make('dinov2')(jnp.zeros(shape))
    with pytest.raises(UserError, match='uint8'):
        make('dinov2')(jnp.zeros((1, 16, 48, 3), jnp.uint8))


def test_a_border_of_less_than_a_patch_is_left_out():
    pixels = jnp.asarray(np.random.default_rng(0).normal(size=(1, 19, 50, 3)), jnp.float32)
    encoder = make('dinov2')
    np.testing.assert_array_equal(encoder(pixels), encoder(pixels[:, :16, :48]))


@pytest.mark.parametrize('family', ['dinov3', 'clip'])
def test_remat_and_unrolling_change_nothing(family):
    pixels = draw_pixels()
    expected = make(family).tapped(pixels, (0, 2))
    execution = layers.Execution(remat='full', unroll=True)
    np.testing.assert_allclose(make(family, execution).tapped(pixels, (0, 2)), expected, atol=1e-5)


def test_weights_stored_in_bfloat16_stay_close():
    encoder = make('dinov3', layers.Execution(layers.PRECISIONS['bf16']), gated=True, activation='silu')
    expected = encoder(draw_pixels()).astype(jnp.float32)
    graphdef, params = nnx.split(encoder)
    halved = nnx.merge(graphdef, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params))
    assert np.abs(halved(draw_pixels()).astype(jnp.float32) - expected).max() < 0.1


# Block, SwiGLU and RoPE once more, in NumPy with loops where the model has arrays (frozen.md, acceptance).


def numpy_block(weights, layer, x_MD, arch, angles_Md):
    part = {name.removeprefix(f'layers/{layer}/'): array for name, array in weights.items() if f'/{layer}/' in name}
    y_MD = normed(x_MD, arch.epsilon) * part['attention_norm/scale'] + part['attention_norm/bias']
    out_MD = np.zeros_like(x_MD) + part['attention/out/bias']
    for head in range(arch.heads):
        query = y_MD @ part['attention/query/kernel'][:, head] + part['attention/query/bias'][head]
        key = y_MD @ part['attention/key/kernel'][:, head]
        value = y_MD @ part['attention/value/kernel'][:, head] + part['attention/value/bias'][head]
        query, key = numpy_rotate(query, angles_Md), numpy_rotate(key, angles_Md)
        scores = np.exp(query @ key.T / math.sqrt(arch.head_dim))
        out_MD = out_MD + scores / scores.sum(1, keepdims=True) @ value @ part['attention/out/kernel'][head]
    x_MD = x_MD + part['attention_scale/scale'] * out_MD
    y_MD = normed(x_MD, arch.epsilon) * part['mlp_norm/scale'] + part['mlp_norm/bias']
    gate = y_MD @ part['mlp/gate/kernel'] + part['mlp/gate/bias']
    hidden = gate / (1 + np.exp(-gate)) * (y_MD @ part['mlp/dense_in/kernel'] + part['mlp/dense_in/bias'])
    return x_MD + part['mlp_scale/scale'] * (hidden @ part['mlp/dense_out/kernel'] + part['mlp/dense_out/bias'])


def numpy_rotate(x_Md, angles_Md):
    turned = np.empty_like(x_Md)
    half = x_Md.shape[1] // 2
    for token, angles in enumerate(angles_Md):
        for i in range(half):
            pair = complex(x_Md[token, i], x_Md[token, i + half]) * np.exp(1j * angles[i])
            turned[token, i], turned[token, i + half] = pair.real, pair.imag
    return turned


def test_a_block_of_dinov3_equals_numpy():
    encoder = make('dinov3', gated=True, activation='silu')
    arch = encoder.architecture
    rng = np.random.default_rng(0)
    weights = {
        name: (array + 0.3 * rng.normal(size=array.shape)).astype(np.float32)
        for name, array in param_names.to_named(encoder).items()
    }
    encoder = param_names.from_named(encoder, weights, 'drawn')
    hidden = [np.asarray(tokens[0], np.float64) for tokens in encoder.hidden_states(draw_pixels())]
    angles_Md = np.zeros((5 + 12, arch.head_dim))  # the prefix is not turned
    for row in range(2):
        for column in range(6):
            coordinates = 2 * (row + 0.5) / 2 - 1, 2 * (column + 0.5) / 6 - 1
            periods = [100 ** (4 * i / 8) for i in range(2)]
            angles_Md[5 + 6 * row + column, :4] = [2 * np.pi * c / p for c in coordinates for p in periods]
    for layer in range(3):
        expected = numpy_block(weights, layer, hidden[layer], arch, angles_Md)
        np.testing.assert_allclose(hidden[layer + 1], expected, rtol=1e-4, atol=1e-4)


def test_standard_sizes_have_the_published_parameter_counts():
    millions = {('dinov3', 's'): 21.60, ('dinov3', 'b'): 85.66, ('dinov3', 'l'): 303.13, ('dinov3', 'h'): 840.59,
                ('dinov2', 's'): 22.06, ('dinov2', 'b'): 86.58, ('dinov2', 'l'): 304.37}  # fmt: skip
    for key, expected in millions.items():
        arch = image_architecture.STANDARD[key]
        encoder = nnx.eval_shape(
            lambda arch=arch: image_vit.ImageEncoder(arch, execution=layers.Execution(), rngs=nnx.Rngs(0))
        )
        count = sum(math.prod(shape) for shape in param_names.named_shapes(encoder).values())
        assert round(count / 1e6, 2) == expected


def test_a_size_that_a_family_lacks_is_refused_with_those_it_has():
    with pytest.raises(UserError, match='take one of b, l, tiny'):
        image_architecture.standard('siglip2', 'h')
    with pytest.raises(UserError, match='take one of dinov3, dinov2'):
        image_architecture.standard('resnet', 's')


def test_tiny_encoders_of_every_family_are_alike():
    sizes = ('patch_size', 'width', 'layers', 'heads', 'mlp', 'image_size')
    tiny = [dataclasses.asdict(image_architecture.standard(family, 'tiny')) for family in FAMILIES]
    assert {tuple(arch[size] for size in sizes) for arch in tiny} == {(8, 64, 4, 2, 256, 48)}
