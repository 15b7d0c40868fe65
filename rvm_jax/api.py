"""What a program calls in place of a command: training, the features of a video, batches for a loop of one's own."""

import ast
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rvm_jax.errors import ConfigErrors, UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from rvm_jax.models.rvm import RVM
    from rvm_jax.training.loss import Objective


class VideoFeatures(NamedTuple):
    """Features of one video, as `rvm features` writes them."""

    features: np.ndarray  # (T, M, D) float32: T frames, M tokens (CLS first, then patches row by row), D numbers each
    grid: tuple[int, int]  # rows and columns of patches
    fps: float  # frames per second; nan if every frame is taken and the file does not state its rate


def load_config(recipe: str | os.PathLike, **overrides: Any) -> 'ConfigDict':
    """The config of a recipe, such as 'rvm_s' or a path, with some keys changed.

    A section takes a dict: load_config('rvm_s', batch_size=64, data={'path': 'videos', 'fps': 8}). `config.py` explains
    every key. Raises ConfigErrors with all mistakes.
    """
    from rvm_jax import config

    return config.load(recipe, [f'{key}={value}' for key, value in _flat(overrides)])


def _flat(overrides, section=''):
    for name, value in overrides.items():
        key = f'{section}{name}'
        if isinstance(value, Mapping):
            yield from _flat(value, f'{key}.')
        else:
            yield key, os.fspath(value) if isinstance(value, os.PathLike) else value


def train(config: 'ConfigDict', workdir: str | os.PathLike, objective: 'Objective | None' = None) -> None:
    """Train until config.steps are done; the same call resumes after any interruption. As `rvm train`.

    Works in scripts, notebooks and threads. Ctrl-C and SIGTERM end it with everything saved where Python can receive
    signals, in the main thread. objective replaces the one that config.objective describes, see `loss.Objective`.

    Raises ConfigErrors or UserError, before anything is computed, for mistakes; Stopped after a signal; Diverged;
    DataError when too many videos fail.
    """
    from rvm_jax import config as configs
    from rvm_jax import pretrained
    from rvm_jax.training import loop
    from rvm_jax.training.preflight import config_problems

    if problems := configs.check(config) + config_problems(config):
        raise ConfigErrors(problems)
    check_main_guard(config.data.num_workers)
    loop.train(config, os.fspath(workdir), pretrained.load, objective)


def features(
    model: 'RVM', video: str | os.PathLike, *, fps: float | str | None = None, size: int | None = None
) -> VideoFeatures:
    """Features of a video (a file, or a folder of numbered pictures), which the model reads frame by frame.

    fps: frames per second, or 'all'; by default as in the model's training. size: the shorter side in pixels, by
    default that of the training. All features must fit in memory; `inference.open_stream` and
    `inference.encode_stream` give them piece by piece. Raises DataError for a video that cannot be decoded.
    """
    from rvm_jax import inference
    from rvm_jax.values import frame_rate

    rate = frame_rate(None if fps is None else str(fps))  # the rule of --fps
    stream = inference.open_stream(model, video, short_side=size, fps=rate)
    return VideoFeatures(np.concatenate(list(inference.encode_stream(model, stream.frames))), stream.grid, stream.fps)


def batches(config: 'ConfigDict', *, start_step: int = 0, held_out: bool = False) -> Iterator[dict[str, np.ndarray]]:
    """Yield the batches that training takes, for a loop of one's own: source, target, deltas.

    source is uint8 (B, T, H, W, 3), target uint8 (B, F, H, W, 3), deltas int32 (B, F): frames from a source frame
    (config.data.delta_from) to each target. Training batches are endless, and the n-th is that of step n of
    `rvm train`, whatever the number of workers. held_out: log.eval_clips clips of data.eval_path instead, always the
    same. Worker processes end when the generator is closed. Raises UserError for data that do not exist, DataError if
    no clip can be read.
    """
    from rvm_jax.data.loader import make_eval_clips, make_loader
    from rvm_jax.data.open_data import open_held_out, open_training

    check_main_guard(config.data.num_workers)
    if held_out:
        mixture = open_held_out(config.data)
        if mixture is None:
            raise UserError('config.data.eval_path', 'is empty', 'name held-out videos')
        num_clips = config.log.eval_clips
        batch_size = min(config.batch_size, num_clips)
        for batch in make_eval_clips(mixture, config.data, num_clips=num_clips, batch_size=batch_size):
            yield _plain(batch)
        return
    mixture = open_training(config.data)
    with make_loader(
        mixture, config.data, seed=config.seed, batch_size=config.batch_size, start_step=start_step
    ) as loader:
        for batch in loader:
            yield _plain(batch)


def _plain(batch):
    return {'source': batch['source_BTHWC'], 'target': batch['target_BFHWC'], 'deltas': batch['deltas_BF']}


def check_main_guard(num_workers: int) -> None:
    """UserError if worker processes, which import the script that starts them, would run it a second time.

    Python starts them so ("spawn"). A script is safe if what it runs now is below `if __name__ == '__main__':`.
    """
    path = getattr(sys.modules['__main__'], '__file__', None)
    if not num_workers or path is None or not os.path.isfile(path):  # a notebook, or an interactive session
        return
    line = _line_of_main()
    try:
        with open(path, encoding='utf-8') as file:
            tree = ast.parse(file.read())
    except (OSError, ValueError, SyntaxError):
        return
    guards = [node for node in tree.body if isinstance(node, ast.If) and '__name__' in ast.unparse(node.test)]
    if line and not any(node.lineno <= line <= (node.end_lineno or line) for node in guards):
        raise UserError(
            f'{os.path.basename(path)}, line {line}', 'would run once more in each process that decodes videos',
            "put it under if __name__ == '__main__':, or set data.num_workers to 0",
        )  # fmt: skip


def _line_of_main():
    """The line of the script that the main thread is at; None where it has ended or is no script."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_code.co_name == '<module>' and frame.f_globals is vars(sys.modules['__main__']):
            return frame.f_lineno
        frame = frame.f_back
    return None
