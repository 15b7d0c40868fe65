import jax
import numpy as np
import optax
import pytest
from flax import nnx

from rvm_jax.probing.tasks.losses import scores_of


@pytest.fixture
def overfit():
    """overfit(task, examples) -> (loss before, loss after, scores) of a readout that saw two clips again and again."""

    def train(task, examples, *, num_frames=4, steps=80, learning_rate=1e-2):
        features = np.random.default_rng(0).normal(size=(len(examples), num_frames, 3, 8)).astype(np.float32)
        batch = {name: np.stack([one[name] for one in examples]) for name in examples[0] if name != 'id'}
        optimizer = optax.adamw(learning_rate, weight_decay=1e-4)

        @jax.jit
        def run(features, batch):
            key = jax.random.key(0, impl='rbg')  # compiles faster than the default
            graphdef, params = nnx.split(task.readout(8, num_frames, nnx.Rngs(key)))

            def step(carry, _):
                params, state = carry
                objective = lambda params: task.loss(nnx.merge(graphdef, params), features, batch)[0]  # noqa: E731
                loss, grads = jax.value_and_grad(objective)(params)
                updates, state = optimizer.update(grads, state, params)
                return (optax.apply_updates(params, updates), state), loss

            (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
            return losses, task.predict(nnx.merge(graphdef, params), features, batch)

        losses, found = jax.device_get(run(features, batch))
        predictions = [{name: array[i] for name, array in found.items()} for i in range(len(examples))]
        return losses[0], losses[-1], scores_of(task, predictions, examples)

    return train


@pytest.fixture
def gradient():
    """gradient(task, outputs, batch) -> loss of a task and its gradient to what a readout gives out."""

    def differentiate(task, outputs, batch):
        objective = lambda outputs: task.loss(lambda *_: outputs, None, batch)[0]  # noqa: E731
        loss, grads = jax.jit(jax.value_and_grad(objective))(outputs)
        return jax.tree.map(np.asarray, (loss, grads))

    return differentiate
