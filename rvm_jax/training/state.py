"""The train state: step, parameters, optimizer state and random key in one nested dict, created already sharded."""

import jax
import jax.numpy as jnp
from flax import nnx

from rvm_jax.models import build, trainable
from rvm_jax.training import sharding


def make_state(arch, execution, optimizer, seed, mesh, sharded='params'):
    """(graphdef, abstract state, abstract frozen parameters, function that creates the state in place on the mesh).

    The abstract ones say by their shardings where everything lies. 'params' of the state are those that train, and
    batch norms add 'statistics'; frozen parameters are no part of it: {} if there are none, see parts.py.
    sharded: 'params' or 'optimizer', what the mesh axis 'fsdp' splits, see `sharding.state_shardings`.
    """

    def create():
        model_key, train_key = jax.random.split(jax.random.key(seed))
        model = build.build(arch, execution, rngs=nnx.Rngs(params=model_key))
        params, statistics, _ = trainable.split(nnx.to_pure_dict(nnx.state(model)), arch)
        state = {
            'step': jnp.zeros((), jnp.int32),
            'params': params,
            'opt_state': optimizer.init(params),
            'key': jax.random.key_data(train_key),
        }
        return state | ({'statistics': statistics} if statistics else {})

    def placed(tree):
        shardings = sharding.state_shardings(mesh, tree, sharded)
        return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), tree, shardings)

    graphdef, params = nnx.split(build.abstract(arch, execution))
    abstract = placed(jax.eval_shape(create))
    frozen = trainable.stored(trainable.split(nnx.to_pure_dict(params), arch)[2], execution.precision)
    frozen = placed({'params': frozen})['params']
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return graphdef, abstract, frozen, jax.jit(create, out_shardings=shardings)
