"""A recipe becomes programs: mesh, model, optimizer, sharded state, and the steps that train and evaluate it.

The train state is one nested dict of step, parameters, optimizer state and random key, created already sharded.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import nnx
from jax.sharding import Mesh

from rvm_jax.models import build, trainable
from rvm_jax.models.architecture import Architecture
from rvm_jax.models.attention import check_device
from rvm_jax.models.layers import Execution
from rvm_jax.training import sharding
from rvm_jax.training.loss import Objective, comparison_of, objective_of
from rvm_jax.training.optimizer import make_optimizer
from rvm_jax.training.step import make_eval_step, make_train_step

# How XLA compiles a train step for a platform. On GPUs cuBLAS multiplies, not XLA's own Triton kernels: it adds biases
# and computes the GELU while it writes the result. Products of one array stay apart, because cuDNN wants queries, keys
# and values in separate arrays. By the compiler's programs for an H100 both save a tenth of all memory traffic.
# Reduce-scatters are not combined: combined ones, of layers far apart, all came after the last gradient, where nothing
# runs beside them (RVM-L over 8 H100: 15 at the end). Now each comes soon after its gradient, and a device needs 7.3
# GiB instead of 8.4. Time on a GPU is not measured yet, see benchmarks/gpu.sh.
COMPILER_OPTIONS = {
    'gpu': {
        'xla_gpu_enable_triton_gemm': False,
        'xla_gpu_dot_merger_threshold_mb': 0,
        'xla_gpu_reduce_scatter_combine_threshold_bytes': 0,
    }
}


class Programs(NamedTuple):
    """The programs of a run; each is compiled when it is first called."""

    arch: Architecture
    mesh: Mesh
    abstract_state: dict[str, Any]  # shapes of the train state, with shardings
    abstract_frozen: dict[str, Any]  # the same of the parameters that do not train, {} if there are none
    create: Any  # jitted: () -> the fresh state, created on the mesh
    train_step: Any  # jitted: (state, batch, frozen) -> state, metrics
    eval_step: Any  # jitted: (all params, batch, key) -> losses, Reconstruction


def make_programs(
    config: ml_collections.ConfigDict,
    arch: Architecture,
    devices: Sequence[Any] | None = None,
    attention: str | None = None,
    by_process: bool = False,
    objective: Objective | None = None,
) -> Programs:
    """The programs of a config on these devices (None: all that JAX has), which may be abstract ones.

    arch is the config's Architecture, see `conversion.frozen.resolve`. attention replaces config.model.attention, see
    `attention_check.choose`. by_process: see `sharding.make_mesh`. objective replaces the one that config.objective
    describes, see `loss.objective_of`. Raises UserError if config and devices do not fit together.
    """
    mesh = sharding.make_mesh(config.mesh, devices, by_process)
    sharding.check_batch(mesh.devices.size, config.batch_size, config.accumulate)
    execution = build.execution(config.model, sharding.platform(mesh))
    check_device(execution)
    if attention is not None:
        execution = dataclasses.replace(execution, implementation=attention)
    gather = sharding.make_gather(mesh, config.mesh.sharded, execution.precision)
    execution = dataclasses.replace(execution, gather=gather)
    optimizer = make_optimizer(config.optim, config.steps)
    graphdef, abstract_state, abstract_frozen, create = make_state(
        arch, execution, optimizer, config.seed, mesh, config.mesh.sharded, has_ema=config.ema > 0
    )
    objective = objective or objective_of(config.objective)
    options = COMPILER_OPTIONS.get(execution.platform)
    train_step = make_train_step(
        graphdef, optimizer, objective, abstract_state, gather, abstract_frozen, options,
        accumulate=config.accumulate, ema=config.ema,
    )  # fmt: skip
    all_params = trainable.of_model(abstract_state, abstract_frozen)
    eval_step = make_eval_step(graphdef, comparison_of(config.objective), all_params, gather)
    return Programs(arch, mesh, abstract_state, abstract_frozen, create, train_step, eval_step)


def make_state(
    arch: Architecture,
    execution: Execution,
    optimizer: optax.GradientTransformation,
    seed: int,
    mesh: Mesh,
    sharded: str = 'params',
    has_ema: bool = False,
) -> tuple[nnx.GraphDef, dict[str, Any], dict[str, Any], Callable[[], dict[str, Any]]]:
    """(graphdef, abstract state, abstract frozen parameters, function that creates the state on the mesh).

    The shardings of the abstract ones say where everything lies. 'params' of the state are those that train; has_ema
    adds 'ema', their moving average, and batch norms add 'statistics'. Frozen parameters are not in the state, {} if
    there are none, see trainable.py. sharded: 'params' or 'optimizer', what the mesh axis 'fsdp' splits, see
    `sharding.state_shardings`.
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
        state |= {'statistics': statistics} if statistics else {}
        return state | ({'ema': jax.tree.map(jnp.copy, params)} if has_ema else {})

    def placed(tree):
        shardings = sharding.state_shardings(mesh, tree, sharded)
        return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), tree, shardings)

    graphdef, params = nnx.split(build.abstract(arch, execution))
    abstract = placed(jax.eval_shape(create))
    frozen = trainable.stored(trainable.split(nnx.to_pure_dict(params), arch)[2], execution.precision)
    frozen = placed({'params': frozen})['params']
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return graphdef, abstract, frozen, jax.jit(create, out_shardings=shardings)
