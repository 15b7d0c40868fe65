"""Held-out losses beside the trivial predictors, and reconstruction pictures, while a run trains."""

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rvm_jax.data.loader import make_eval_clips
from rvm_jax.distributed.process_group import ALONE
from rvm_jax.terminal import say
from rvm_jax.training import sharding
from rvm_jax.visualization.reconstruction import panel

PICTURED = 3  # clips in a picture
EVAL_KEY = 0  # the same masks at every evaluation


class Evaluation:
    """Evaluates on the source of held-out videos, and draws held-out clips, or training clips where there are none."""

    def __init__(self, config, hosts, mesh, eval_step, writer, patch_size, source):
        self._config, self._hosts, self._mesh, self._eval_step = config, hosts, mesh, eval_step
        self._writer, self._patch_size, self._source = writer, patch_size, source

    def maybe(self, step, params, train_batch, is_last):
        """Evaluate and draw if it is time to; returns the held-out losses by their names in the log, or {}."""
        log = self._config.log
        scalars = {}
        draws = is_last or (log.images_every and step % log.images_every == 0)
        if self._source is not None and (is_last or step % log.eval_every == 0):
            found = held_out_losses(self._config, self._mesh, self._eval_step, params, self._source, self._hosts)
            losses, batch, out = found
            scalars = {f'eval_{name}': value for name, value in losses.items()}
        elif draws:
            batch = train_batch
            _, out = self._eval_step(params, batch, jax.random.key(EVAL_KEY))
        if draws:
            arrays = first_clips(batch, out)  # by all processes; what draws is the first one alone
            self._writer.image(step, 'reconstruction', lambda: draw(arrays, self._patch_size))
        return scalars


def held_out_losses(config, mesh, eval_step, params, source, hosts=ALONE):
    """Mean losses over log.eval_clips held-out clips, as floats, and the first batch with its Reconstruction."""
    devices = mesh.devices.size
    batch_size = min(config.batch_size, -(-config.log.eval_clips // devices) * devices)
    losses, failures, first = [], [], None
    clips = make_eval_clips(
        source, config.data, num_clips=config.log.eval_clips, batch_size=batch_size,
        rows=sharding.local_rows(mesh, batch_size),
    )  # fmt: skip
    for host_batch in clips:
        batch = sharding.place_batch(mesh, host_batch)
        found, out = eval_step(params, batch, jax.random.fold_in(jax.random.key(EVAL_KEY), len(losses)))
        losses.append(jax.device_get(found))
        failures += host_batch['failures']
        for notice in host_batch['notices']:
            say(notice)
        first = first or (batch, out)
    failures = [failure for of_one in hosts.all_gather(failures) for failure in of_one]
    if failures:
        _, path, reason = failures[0]
        hosts.say(f'held-out clips: {len(failures)} videos gave none and were replaced, first {path} ({reason})')
    return {name: float(np.mean([found[name] for found in losses])) for name in losses[0]}, *first


def picture(batch, out, patch_size):
    """The reconstruction panel of the first clips of a batch, uint8 HWC."""
    return draw(first_clips(batch, out), patch_size)


def first_clips(batch, out):
    """What the panel shows of the first clips of a batch, out of all devices, whole in every process."""
    arrays = batch['source_BTHWC'], batch['target_BFHWC'], out.pixels, out.visible, batch['deltas_BF']
    whole = NamedSharding(arrays[0].sharding.mesh, PartitionSpec())
    return jax.jit(_cut, out_shardings=whole)(arrays)


def draw(arrays: list, patch_size: int) -> np.ndarray:
    """The panel of `first_clips`."""
    source, target, pixels, visible, deltas = map(np.asarray, arrays)
    return panel(source, target, pixels, visible, patch_size, deltas)


def _cut(arrays):
    return [array[:PICTURED] for array in arrays]
