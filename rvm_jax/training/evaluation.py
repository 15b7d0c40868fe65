"""Held-out losses beside the trivial predictors, and reconstruction pictures, while a run trains."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rvm_jax.data.loader import make_eval_clips
from rvm_jax.data.mixture import Mixture
from rvm_jax.distributed.process_group import ALONE, ProcessGroup
from rvm_jax.models import trainable
from rvm_jax.models.rvm import Reconstruction
from rvm_jax.terminal import counted, say
from rvm_jax.training import sharding
from rvm_jax.training.state import Programs
from rvm_jax.training.writer import Writer
from rvm_jax.visualization.reconstruction import panel

PICTURED = 3  # clips in a picture
EVAL_KEY = 0  # the same masks at every evaluation


class Evaluation:
    """Evaluates on held-out videos, and draws held-out clips, or training clips if there are no held-out ones.

    announce() is called before an evaluation or a picture, which may compile for a minute.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        programs: Programs,
        hosts: ProcessGroup,
        writer: Writer,
        held_out: Mixture | None,
        announce: Callable[[], None] = lambda: None,
    ):
        self._config, self._programs, self._hosts = config, programs, hosts
        self._writer, self._held_out, self._announce = writer, held_out, announce

    def maybe(
        self, step: int, state: dict[str, Any], frozen: dict[str, Any], train_batch: dict[str, jax.Array]
    ) -> dict[str, float]:
        """Evaluate and draw if it is time for it; returns the held-out losses by their names in the log, or {}."""
        log, is_last = self._config.log, step == self._config.steps
        evaluates = is_last or step % log.eval_every == 0
        draws = is_last or (log.images_every and step % log.images_every == 0)
        if not (draws or (evaluates and self._held_out is not None)):
            return {}
        self._announce()
        params, scalars = trainable.joined(*trainable.in_use(state), frozen), {}
        if evaluates and self._held_out is not None:
            losses, batch, out = held_out_losses(
                self._config, self._programs.mesh, self._programs.eval_step, params, self._held_out, self._hosts
            )
            scalars = {f'eval_{name}': value for name, value in losses.items()}
        else:
            batch = train_batch
            found, out = self._programs.eval_step(params, batch, jax.random.key(EVAL_KEY))
            losses = jax.device_get(found)
        if is_last and (advice := judged(losses)):
            self._hosts.say(advice)
        if draws:
            arrays = first_clips(batch, out)  # all processes take part in this; the first one alone draws
            self._writer.image(step, 'reconstruction', lambda: draw(arrays, self._programs.arch.patch_size))
        return scalars


def judged(losses: Mapping[str, float]) -> str | None:
    """A line about a model that predicts no better than the trivial predictors, None for a better one."""
    if losses['loss'] < min(losses['copy_last'], losses['mean_color']):
        return None
    return (
        f'the model does not predict better than the trivial predictors yet (error {losses["loss"]:.4f}; copying the '
        f'last source frame {losses["copy_last"]:.4f}, mean color {losses["mean_color"]:.4f}), so its pictures are '
        'gray or blurred: it needs more steps. The same command with a larger --config.steps and '
        '--config.optim.allow_change=true adds them'
    )


def held_out_losses(
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    eval_step: Callable[..., Any],
    params: dict[str, Any],
    source: Mixture,
    hosts: ProcessGroup = ALONE,
) -> tuple[dict[str, float], dict[str, jax.Array], Reconstruction]:
    """Mean losses over log.eval_clips held-out clips, and the first batch with its Reconstruction.

    The clips and their masks are the same every time, so that losses of different steps can be compared.
    """
    devices = mesh.devices.size
    batch_size = min(config.batch_size, -(-config.log.eval_clips // devices) * devices)
    clips = make_eval_clips(
        source, config.data, num_clips=config.log.eval_clips, batch_size=batch_size,
        rows=sharding.local_rows(mesh, batch_size),
    )  # fmt: skip
    losses: list[dict[str, Any]] = []
    failures, first = [], None
    for host_batch in clips:
        batch = sharding.place_batch(mesh, host_batch)
        found, out = eval_step(params, batch, jax.random.fold_in(jax.random.key(EVAL_KEY), len(losses)))
        losses.append(jax.device_get(found))
        failures += host_batch['failures']
        for notice in host_batch['notices']:
            say(notice)
        first = first or (batch, out)
    _say_failures(hosts, failures)
    means = {name: float(np.mean([found[name] for found in losses])) for name in losses[0]}
    return means, *first  # type: ignore[misc]  # there is one batch at least


def _say_failures(hosts, failures):
    """One line, once for all processes, about held-out videos that gave no clip."""
    failures = [failure for of_one in hosts.all_gather(failures) for failure in of_one]
    if failures:
        _, path, reason = failures[0]
        count = counted(len(failures), 'video')
        hosts.say(f'held-out clips: {count} gave no clip and were replaced, the first {path} ({reason})')


def picture(batch: Mapping[str, jax.Array], out: Reconstruction, patch_size: int) -> np.ndarray:
    """The reconstruction panel of the first clips of a batch, uint8 HWC."""
    return draw(first_clips(batch, out), patch_size)


def first_clips(batch: Mapping[str, jax.Array], out: Reconstruction) -> list[jax.Array]:
    """The arrays of the panel for the first clips of a batch, from all devices, as whole arrays in every process."""
    arrays = batch['source_BTHWC'], batch['target_BFHWC'], out.pixels, out.visible, batch['deltas_BF']
    placed = cast(NamedSharding, arrays[0].sharding)  # by `sharding.place_batch`
    whole = NamedSharding(placed.mesh, PartitionSpec())
    return jax.jit(_cut, out_shardings=whole)(arrays)


def draw(arrays: list[jax.Array], patch_size: int) -> np.ndarray:
    """The panel of what `first_clips` gives, uint8 HWC."""
    source, target, pixels, visible, deltas = map(np.asarray, arrays)
    return panel(source, target, pixels, visible, patch_size, deltas)


def _cut(arrays):
    return [array[:PICTURED] for array in arrays]
