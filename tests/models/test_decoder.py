import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

VISIBLE = np.int32([[[3, 10, 1, 8], [3, 10, 1, 8]]])


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


DELTAS = np.int32([[4, 20]])
TOKENS, SOURCE = draw(1, 2, 5, 48), draw(1, 34, 48)


@pytest.fixture(scope='module')
def decode(model):
    """decode(tokens, visible, deltas, source) -> patches (B, F, 16, 768)."""
    graphdef, params = nnx.split(model.decoder)
    compiled = nnx.jit(lambda params, *args: nnx.merge(graphdef, params)(*args, num_patches=16)[0])
    return lambda tokens=TOKENS, visible=VISIBLE, deltas=DELTAS, source=SOURCE: np.asarray(
        compiled(params, tokens, visible, deltas, source)
    )


def test_it_gives_every_patch_of_every_target_in_float32(decode):
    assert decode().shape == (1, 2, 16, 768) and decode().dtype == np.float32


def test_targets_do_not_see_each_other(decode):
    changed = decode(tokens=TOKENS.at[0, 1].add(1.0), deltas=np.int32([[4, 9]]))
    np.testing.assert_array_equal(changed[:, 0], decode()[:, 0])
    assert np.abs(changed[:, 1] - decode()[:, 1]).max() > 0.1


def test_every_source_token_counts_but_not_its_place(decode):
    np.testing.assert_allclose(decode(source=SOURCE[:, ::-1]), decode(), atol=1e-4)
    assert np.abs(decode(source=SOURCE.at[0, 33].add(1.0)) - decode()).max() > 1e-3


def test_visible_tokens_go_to_their_patches(decode):
    swapped = decode(tokens=TOKENS[:, :, [0, 2, 1, 3, 4]], visible=VISIBLE[..., [1, 0, 2, 3]])
    np.testing.assert_allclose(swapped, decode(), atol=1e-4)
    assert np.abs(decode(visible=VISIBLE[..., [1, 0, 2, 3]]) - decode()).max() > 0.1


def test_a_delta_out_of_range_adds_the_bias_alone(decode, model):
    assert np.abs(decode(deltas=np.int32([[5, 20]]))[:, 0] - decode()[:, 0]).max() > 0.01
    np.testing.assert_array_equal(decode(deltas=np.int32([[64, -1]])), decode(deltas=np.int32([[99, 1000]])))
    assert np.abs(decode(deltas=np.int32([[64, 64]])) - decode(deltas=None)).max() > 0.01


def test_without_a_delta_embedding_deltas_change_nothing(make_model):
    decoder = make_model(delta_embedding=False).decoder
    assert decoder.delta_embedder is None
    run = nnx.jit(lambda decoder, deltas: decoder(TOKENS, VISIBLE, deltas, SOURCE, num_patches=16)[0])
    np.testing.assert_array_equal(run(decoder, DELTAS), run(decoder, np.int32([[9, 63]])))
