"""Held-out losses beside the trivial predictors, and reconstruction pictures, while a run goes on."""

import jax
import numpy as np

from rvm_jax.data.loader import make_eval_clips
from rvm_jax.data.sources.folder import FolderSource
from rvm_jax.training import sharding
from rvm_jax.visualization.reconstruction import panel

PICTURED = 3  # clips in a picture
EVAL_KEY = 0  # the same masks at every evaluation


class Evaluation:
    """Evaluates on config.data.eval_path, and draws held-out clips, or training clips where there are none."""

    def __init__(self, config, mesh, eval_step, writer, patch_size):
        self._config, self._mesh, self._eval_step, self._writer = config, mesh, eval_step, writer
        self._patch_size = patch_size
        self._source = FolderSource(config.data.eval_path) if config.data.eval_path else None

    def maybe(self, step, params, train_batch, is_last):
        """Evaluate and draw if it is time to."""
        log = self._config.log
        draws = is_last or (log.images_every and step % log.images_every == 0)
        if self._source is not None and (is_last or step % log.eval_every == 0):
            losses, batch, out = held_out_losses(self._config, self._mesh, self._eval_step, params, self._source)
            self._writer.scalars(step, {f'eval_{name}': value for name, value in losses.items()})
        elif draws:
            batch = train_batch
            _, out = self._eval_step(params, batch, jax.random.key(EVAL_KEY))
        if draws:
            self._writer.image(step, 'reconstruction', picture(batch, out, self._patch_size))
            self._writer.loss_curve()


def held_out_losses(config, mesh, eval_step, params, source):
    """Mean losses over log.eval_clips held-out clips, as floats, and the first batch with its Reconstruction."""
    devices = mesh.devices.size
    batch_size = min(config.batch_size, -(-config.log.eval_clips // devices) * devices)
    losses, first = [], None
    for host_batch in make_eval_clips(source, config.data, num_clips=config.log.eval_clips, batch_size=batch_size):
        batch = sharding.place_batch(mesh, host_batch)
        found, out = eval_step(params, batch, jax.random.fold_in(jax.random.key(EVAL_KEY), len(losses)))
        losses.append(jax.device_get(found))
        first = first or (batch, out)
    return {name: float(np.mean([found[name] for found in losses])) for name in losses[0]}, *first


def picture(batch, out, patch_size):
    """The reconstruction panel of the first clips of a batch, uint8 HWC."""
    arrays = batch['source_BTHWC'], batch['target_BFHWC'], out.pixels, out.visible, batch['deltas_BF']
    source, target, pixels, visible, deltas = (np.asarray(array[:PICTURED]) for array in arrays)
    return panel(source, target, pixels, visible, patch_size, deltas)
