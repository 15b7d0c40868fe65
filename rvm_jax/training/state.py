"""The train state: step, parameters, optimizer state and random key in one nested dict, created already sharded."""

import jax
import jax.numpy as jnp
from flax import nnx

from rvm_jax.models import build
from rvm_jax.training import sharding


def make_state(arch, execution, optimizer, seed, mesh, sharded='params'):
    """(graphdef, abstract state with shardings, function that creates the state in place on the mesh).

    sharded: 'params' or 'optimizer', what the mesh axis 'fsdp' splits, see `sharding.state_shardings`.
    """

    def create():
        model_key, train_key = jax.random.split(jax.random.key(seed))
        model = build.build(arch, execution, rngs=nnx.Rngs(params=model_key))
        params = nnx.to_pure_dict(nnx.state(model))
        return {
            'step': jnp.zeros((), jnp.int32),
            'params': params,
            'opt_state': optimizer.init(params),
            'key': jax.random.key_data(train_key),
        }

    graphdef = nnx.split(build.abstract(arch, execution))[0]
    abstract = jax.eval_shape(create)
    shardings = sharding.state_shardings(mesh, abstract, sharded)
    abstract = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings)
    return graphdef, abstract, jax.jit(create, out_shardings=shardings)
