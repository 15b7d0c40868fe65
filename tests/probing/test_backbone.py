import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from rvm_jax import inference, load_image_encoder, pretrained
from rvm_jax.errors import UserError
from rvm_jax.models import architecture, build
from rvm_jax.probing.backbone import block_at, open_backbone

FRAMES = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, 3), np.uint8)


def test_the_core_is_what_the_model_puts_out(export):
    features, state = open_backbone(export).encode(FRAMES)
    expected, last = pretrained.load(export).encode(FRAMES)
    np.testing.assert_array_equal(features, expected)
    jax.tree.map(np.testing.assert_array_equal, state, last)


def test_the_encoder_sees_each_frame_by_itself(export):
    backbone = open_backbone(export, tap='encoder')
    features, _ = backbone.encode(FRAMES)
    alone, _ = backbone.encode(FRAMES[:, 1:2])
    np.testing.assert_allclose(features[:, 1], alone[:, 0], atol=1e-5)
    model = pretrained.load(export)
    np.testing.assert_allclose(features[:, 1], model.encoder(FRAMES[:, 1] / np.float32(255)), atol=1e-5)


def test_depths_of_the_encoder_differ_and_the_last_is_its_output(export):
    depths = [np.asarray(open_backbone(export, tap=f'encoder:{block}').encode(FRAMES)[0]) for block in range(3)]
    assert all(depth.shape == (2, 3, 5, 64) for depth in depths)
    assert not np.allclose(depths[0], depths[1], atol=0.1) and not np.allclose(depths[1], depths[2], atol=0.1)
    np.testing.assert_array_equal(depths[2], open_backbone(export, tap='encoder').encode(FRAMES)[0])


def test_depths_of_the_core_lie_between_its_input_and_output(export):
    model = pretrained.load(export)
    depth = model.architecture.core_layers
    found = {block: open_backbone(export, tap=f'core:{block}').encode(FRAMES) for block in (0, depth)}
    encoder = open_backbone(export, tap='encoder').encode(FRAMES)[0]
    np.testing.assert_allclose(found[0][0], encoder, atol=1e-5)
    features, last = model.encode(FRAMES)
    for _, state in found.values():
        np.testing.assert_allclose(state, last, atol=1e-5)
    # From a state of zeros the first features are u * LN(blocks): the last tap lies right before that norm.
    update = jax.nn.sigmoid(model.core.input_update(encoder[:, 0]))
    np.testing.assert_allclose(update * model.core.norm(found[depth][0][:, 0]), features[:, 0], atol=1e-5)


@pytest.mark.parametrize(('layers', 'block'), [(12, 10), (24, 21), (32, 29), (56, 52)])
def test_a_fraction_of_the_depth_is_the_block_that_was_published(layers, block):
    assert block_at(0.95, layers) == block


@pytest.mark.parametrize(
    'tap', ['encoder:3', 'encoder:-1', 'encoder@0', 'encoder@2', 'encoder@x', 'core:9', 'core@0.5', 'decoder', '']
)
def test_a_depth_that_is_not_there_is_named(export, tap):
    with pytest.raises(UserError, match=f'--tap {tap}: is not a depth of this model: the encoder has 2 blocks'):
        open_backbone(export, tap=tap)


def test_random_weights_depend_on_the_seed_alone(export):
    one, again, other = (open_backbone(export, random_seed=seed).encode(FRAMES)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other, atol=0.1)
    assert not np.allclose(one, open_backbone(export).encode(FRAMES)[0], atol=0.1)


def test_fingerprints_depend_on_weights_and_depth_alone(export):
    prints = [open_backbone(export, **how).fingerprint() for how in ({}, {'tap': 'encoder'}, {'random_seed': 0})]
    assert len(set(prints)) == 3 and open_backbone(export).fingerprint() == prints[0]


def test_a_stream_of_any_depth_equals_the_clip(export):
    for tap in ('core', 'core:1', 'encoder:1'):
        backbone = open_backbone(export, tap=tap)
        streamed = np.concatenate(list(inference.encode_stream(backbone, FRAMES[0], chunk=2)))
        np.testing.assert_allclose(streamed, backbone.encode(FRAMES[:1])[0][0], atol=1e-5)


def test_a_model_that_does_not_stream_sees_training_windows(tmp_path):
    arch = dataclasses.replace(
        architecture.SIZES['tiny'], core='self_attention', encoder_layers=2, core_layers=1, decoder_width=0,
        num_source=2, image_size=32,
    )  # fmt: skip
    folder = str(tmp_path / 'export')
    pretrained.save_pretrained(build.build(arch, rngs=nnx.Rngs(3)), folder)
    backbone = open_backbone(folder)
    assert backbone.window == 2 == open_backbone(folder, tap='core:1').window
    features, _ = backbone.encode(FRAMES)
    streamed = np.concatenate(list(inference.encode_stream(backbone, FRAMES[0])))
    np.testing.assert_allclose(features[0], streamed, atol=1e-5)
    later = FRAMES.copy()
    later[:, 2] = 0
    np.testing.assert_allclose(backbone.encode(later)[0][:, :2], features[:, :2], atol=1e-5)
    within, _ = open_backbone(folder, tap='core:1').encode(FRAMES)
    np.testing.assert_allclose(pretrained.load(folder).core.norm(within), features, atol=1e-5)


def test_blocks_within_the_encoder_are_not_normed(golden, tmp_path):
    path = golden('dinov2/registers').write(tmp_path / 'encoder')
    encoder = load_image_encoder(path)
    frames = FRAMES[:1, :1]
    pixels = (frames[:, 0] / np.float32(255) - np.float32(encoder.mean)) / np.float32(encoder.std)
    hidden = encoder.hidden_states(pixels)
    for block in range(encoder.num_layers):
        found, _ = open_backbone(path, tap=f'encoder:{block}').encode(frames)
        np.testing.assert_allclose(found[:, 0], hidden[block], atol=1e-5)


def test_an_image_encoder_is_a_backbone_too(golden, tmp_path):
    path = golden('dinov2/registers').write(tmp_path / 'encoder')
    backbone = open_backbone(path)
    frames = FRAMES[:, :, :16, :16]
    features, _ = backbone.encode(frames)
    assert features.shape == (2, 3, 5 + 4, backbone.width)
    with pytest.raises(UserError, match='--tap core:0: needs a core of transformer blocks, which identity is not'):
        open_backbone(path, tap='core:0')
    np.testing.assert_allclose(features, open_backbone(path, tap='encoder').encode(frames)[0], atol=1e-5)
