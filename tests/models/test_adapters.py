import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from rvm_jax.errors import UserError
from rvm_jax.models import layers
from rvm_jax.models.adapters import Adapters, tapped_blocks
from rvm_jax.models.dropout import TrainContext

PREFIX = 3
TAPPED = jnp.asarray(np.random.default_rng(0).normal(1.5, 2.0, (4, 8, PREFIX + 5, 16)), jnp.float32)


def adapters(norm='bn', aggregator='mean', **options):
    made = Adapters(4, 16, norm=norm, aggregator=aggregator, execution=layers.Execution(**options), rngs=nnx.Rngs(0))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + jnp.asarray(rng.normal(0, 0.1, x.shape), x.dtype) ** 2, made)


def learning(count=8, axes=()):
    return TrainContext(jnp.zeros((count, 2), jnp.uint32), axes)


@pytest.mark.parametrize(
    ('taps', 'depth', 'blocks'),
    [
        ('4_regular', 12, (2, 5, 8, 11)),
        ('4_regular', 24, (5, 11, 17, 23)),
        ('4_regular', 27, (5, 12, 19, 26)),
        ('4_regular', 40, (9, 19, 29, 39)),
        ('3_regular', 12, (3, 7, 11)),
        ('3_regular', 32, (9, 20, 31)),
        ('3_regular_and_conv', 24, (-1, 7, 15, 23)),
        ('4_regular_and_conv', 12, (-1, 2, 5, 8, 11)),
        ('with_layer_0', 24, (0, 7, 15, 23)),
        ('last', 27, (26,)),
    ],
)
def test_taps_are_the_published_ones(taps, depth, blocks):
    assert tapped_blocks(taps, depth) == blocks


def test_too_few_blocks_are_refused():
    with pytest.raises(UserError, match='3 blocks'):
        tapped_blocks('4_regular', 3)


def test_it_is_the_published_arithmetic():
    model = adapters()
    features = np.asarray(TAPPED[:, :, PREFIX:], np.float64)
    norm, mlp = model.norm, model.mlp
    expected = []
    for j, x in enumerate(features):
        normed = (x - norm.mean[j]) / np.sqrt(norm.var[j] + 1e-5) * norm.scale[j] + norm.bias[j]
        hidden = normed @ mlp.dense_in.kernel[j] + mlp.dense_in.bias[j]
        hidden = hidden / 2 * (1 + jax.scipy.special.erf(hidden / np.sqrt(2)))
        expected.append(x + hidden @ mlp.dense_out.kernel[j] + mlp.dense_out.bias[j])
    tokens, statistics = model(TAPPED, PREFIX)
    np.testing.assert_allclose(tokens[:, PREFIX:], np.mean(expected, 0), atol=1e-5)
    assert statistics == {}


def test_cls_and_registers_are_those_of_the_last_depth():
    for aggregator in ('mean', 'xattn'):
        tokens, _ = adapters(aggregator=aggregator)(TAPPED, PREFIX)
        np.testing.assert_array_equal(tokens[:, :PREFIX], TAPPED[-1, :, :PREFIX])


def test_four_adapters_of_l_have_the_published_parameter_count():
    made = nnx.eval_shape(
        lambda: Adapters(4, 1024, norm='bn', aggregator='mean', execution=layers.Execution(), rngs=nnx.Rngs(0))
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(made, nnx.Param))) == 16_797_696


def test_batch_norm_learns_from_the_batch_and_keeps_statistics():
    model = adapters()
    features = np.asarray(TAPPED[:, :, PREFIX:], np.float64).reshape(4, -1, 16)
    _, statistics = model(TAPPED, PREFIX, learning())
    np.testing.assert_allclose(statistics['mean'], 0.9 * model.norm.mean[...] + 0.1 * features.mean(1), rtol=1e-5)
    unbiased = features.var(1, ddof=1)
    np.testing.assert_allclose(statistics['var'], 0.9 * model.norm.var[...] + 0.1 * unbiased, rtol=1e-5)
    eval_tokens, _ = model(TAPPED, PREFIX)
    shifted, _ = model(TAPPED + 5.0, PREFIX, learning())
    tokens, _ = model(TAPPED, PREFIX, learning())
    np.testing.assert_allclose((shifted - tokens)[:, PREFIX:], 5.0, atol=1e-3)  # the residual alone moves
    assert np.abs(eval_tokens - tokens).max() > 1e-3


def test_statistics_of_eight_devices_are_those_of_one():
    model = adapters()
    graphdef, params = nnx.split(model)
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ('data', 'fsdp'))
    both = ('data', 'fsdp')

    def on_device(params, tapped):
        return nnx.merge(graphdef, params)(tapped, PREFIX, learning(1, both))

    spread = jax.shard_map(
        on_device, mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec(None, both)),
        out_specs=(PartitionSpec(both), PartitionSpec()), check_vma=False,
    )  # fmt: skip
    found, expected = jax.jit(spread)(params, TAPPED), model(TAPPED, PREFIX, learning())
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_layer_norm_mixes_no_two_tokens_even_while_it_learns():
    model = adapters(norm='ln')
    changed = TAPPED.at[:, 3, PREFIX + 2].add(1.0)
    before, statistics = model(TAPPED, PREFIX, learning())
    after, _ = model(changed, PREFIX, learning())
    moved = np.abs(np.asarray(after - before)).max(-1) > 0
    assert statistics == {} and moved.sum() == 1 and moved[3, PREFIX + 2]


def test_attention_over_depths_stays_within_a_patch():
    model = adapters(aggregator='xattn')
    before, _ = model(TAPPED, PREFIX)
    for depth in range(4):
        after, _ = model(TAPPED.at[depth, 2, PREFIX + 1].add(1.0), PREFIX)
        moved = np.abs(np.asarray(after - before)).max(-1) > 0
        assert moved.sum() == 1 and moved[2, PREFIX + 1]


def test_half_precision_is_close_and_keeps_its_dtype():
    whole, _ = adapters()(TAPPED, PREFIX)
    half, _ = adapters(precision=layers.PRECISIONS['bf16'])(TAPPED.astype(jnp.bfloat16), PREFIX)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), whole, atol=0.1)
