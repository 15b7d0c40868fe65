"""Render videos, pre-train a tiny model on them, export and evaluate it, and write report.html.

Example:
    rvm demo --output runs/demo

It takes less than ten minutes on two CPU cores. Started again, it resumes where it stopped.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from typing import TYPE_CHECKING

from rvm_jax.errors import UserError

if TYPE_CHECKING:
    import ml_collections
    import numpy as np

    from rvm_jax.models.rvm import RVM
    from rvm_jax.visualization.report import Row

FRAMES_SHOWN = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rvm demo`."""
    parser.add_argument('--output', default='runs/demo', help='folder for videos, model and report (runs/demo)')
    parser.add_argument('--config', default='configs/tiny.py', metavar='RECIPE', help='recipe (configs/tiny.py)')


def run(args: argparse.Namespace) -> None:
    """Run all parts; files of an earlier start are used again."""
    from rvm_jax import config, pretrained
    from rvm_jax.synthetic import demo_videos
    from rvm_jax.training.loop import train
    from rvm_jax.training.run_record import run_facts

    folders = {name: os.path.join(args.output, name) for name in ('videos', 'train', 'export')}
    recipe = config.load(args.config, [*demo_videos.overrides(folders['videos']), *args.overrides])
    demo_videos.render(folders['videos'], seed=recipe.seed, fps=recipe.data.fps)
    train(recipe, folders['train'], pretrained.load)
    model = pretrained.load(folders['train'])
    facts = run_facts(folders['train'], pretrained.read_run(folders['train']), recipe, recipe.steps)
    pretrained.save_pretrained(model, folders['export'], facts=facts)
    model = pretrained.load(folders['export'])
    losses, panel_HWC = evaluate(model, recipe)
    report = os.path.join(args.output, 'report.html')
    write_page(report, model, recipe, losses, panel_HWC, folders)
    print_table(losses, report)


def evaluate(model: RVM, recipe: ml_collections.ConfigDict) -> tuple[dict[str, float], np.ndarray]:
    """Held-out losses of the exported model and of the trivial predictors, and a reconstruction panel, uint8 HWC."""
    import jax
    from flax import nnx

    from rvm_jax.data.open_data import open_held_out
    from rvm_jax.training import evaluation, sharding
    from rvm_jax.training.loss import comparison_of
    from rvm_jax.training.step import make_eval_step

    graphdef, params = nnx.split(model)
    mesh = sharding.make_mesh(recipe.mesh)
    params = jax.device_put(nnx.to_pure_dict(params), sharding.state_shardings(mesh, nnx.to_pure_dict(params)))
    eval_step = make_eval_step(graphdef, comparison_of(recipe.objective), params)
    held_out = open_held_out(recipe.data)
    if held_out is None:
        raise UserError('config.data.eval_path', 'is empty', 'name held-out videos, or do not set this key')
    losses, batch, out = evaluation.held_out_losses(recipe, mesh, eval_step, params, held_out)
    return losses, evaluation.picture(batch, out, model.patch_size)


def features_picture(model: RVM, frames_THWC: np.ndarray, truth_THWC: np.ndarray | None = None) -> np.ndarray:
    """PCA and K-means of the features of a video, which the model reads frame by frame, uint8 HWC."""
    import numpy as np

    from rvm_jax import inference
    from rvm_jax.visualization.feature_maps import feature_panel

    features_TMD = np.concatenate(list(inference.encode_stream(model, frames_THWC)))
    height, width = frames_THWC.shape[1:3]
    grid = height // model.patch_size, width // model.patch_size
    features_ThwD = inference.patch_grid(features_TMD, grid, model.num_prefix_tokens)
    return feature_panel(frames_THWC, features_ThwD, truth_THWC, first=4)


def write_page(
    path: str,
    model: RVM,
    recipe: ml_collections.ConfigDict,
    losses: dict[str, float],
    panel_HWC: np.ndarray,
    folders: dict[str, str],
) -> None:
    """Write report.html to path: losses, a reconstruction panel, and pictures of features."""
    from rvm_jax.visualization.report import write_report

    pictures = [
        *_loss_curve(folders['train']),
        _reconstruction(recipe, panel_HWC),
        _held_out_features(model, recipe),
        _noise_features(model, recipe),
    ]
    summary = (
        f'{recipe.steps:,} steps of {recipe.batch_size} clips; held-out error '
        f'{losses["loss"] / better(losses):.2f} of the better trivial predictor'
    )
    write_report(path, title='RVM demo', summary=summary, rows=rows(losses), pictures=pictures)


def _loss_curve(workdir):
    """The curve of a run as a list of one Picture; [] for a run of a few steps, which has no curve."""
    from rvm_jax.training.writer import draw_losses, read_metrics
    from rvm_jax.visualization.report import Picture

    logged = read_metrics(os.path.join(workdir, 'metrics.jsonl'))
    light, dark = (draw_losses(logged, dark) for dark in (False, True))
    caption = 'Mean squared error of the pixels of the target frames. The dashed levels are the two trivial predictors.'
    return [] if light is None or dark is None else [Picture('Loss', caption, (light, dark))]


def _reconstruction(recipe, panel_HWC):
    from rvm_jax.visualization.report import Picture

    caption = (
        f'From {recipe.data.num_source} source frames and {1 - recipe.model.mask_ratio:.0%} of the patches of a later '
        'frame, the model paints that frame. Δ counts frames from the first source frame.'
    )
    return Picture('Reconstruction of held-out clips', caption, panel_HWC)


def _held_out_features(model, recipe):
    import numpy as np

    from rvm_jax import inference
    from rvm_jax.data.sources.folder import FolderSource
    from rvm_jax.synthetic.demo_videos import SIDE
    from rvm_jax.visualization.report import Picture

    video = FolderSource(recipe.data.eval_path)[0].name
    frames = inference.video_frames(video, short_side=SIDE, patch_size=model.patch_size)
    frames_THWC = np.stack(list(frames))[:FRAMES_SHOWN]
    caption = (
        'The first three principal components of the features as colors, and K-means with five clusters; both are '
        'fitted to all frames of the clip at once.'
    )
    return Picture('Features of a held-out clip', caption, features_picture(model, frames_THWC))


def _noise_features(model, recipe):
    import numpy as np

    from rvm_jax.synthetic.demo_videos import SIDE
    from rvm_jax.synthetic.render import noise_square
    from rvm_jax.visualization.canvas import tint
    from rvm_jax.visualization.report import Picture

    noise_THWC, mask_THW = noise_square(np.random.default_rng(recipe.seed), FRAMES_SHOWN, size=2 * SIDE)
    caption = (
        'A square of noise moves over noise: it cannot be seen in a single frame, only by its motion. The last row is '
        'the truth. This model is small and never saw noise in training: do not expect it to find the square.'
    )
    truth_THWC = tint(noise_THWC, mask_THW)
    return Picture('Features of the noise square', caption, features_picture(model, noise_THWC, truth_THWC))


def better(losses: dict[str, float]) -> float:
    """The loss of the better trivial predictor."""
    return min(losses['copy_last'], losses['mean_color'])


def rows(losses: dict[str, float]) -> list[Row]:
    """The results as rows of the report and of the terminal."""
    from rvm_jax.visualization.report import Row

    return [
        Row('model', f'{losses["loss"]:.5f}', 'mean squared error on held-out clips'),
        Row('copy the last source frame', f'{losses["copy_last"]:.5f}', 'as if nothing moved'),
        Row('mean color', f'{losses["mean_color"]:.5f}', 'the mean color of the source frames'),
        Row('model / better of the two', f'{losses["loss"] / better(losses):.3f}', 'below 1: it learned to see motion'),
    ]


def print_table(losses: dict[str, float], report: str) -> None:
    """Print the results and where the report is."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title='held-out clips')
    table.add_column('predictor')
    table.add_column('error', justify='right')
    for row in rows(losses):
        table.add_row(row.name, row.value)
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f'report: {os.path.abspath(report)}', highlight=False, markup=False)
    activate = os.path.join(sys.prefix, 'bin', 'activate')
    if shutil.which('rvm') is None and os.path.exists(activate):  # as after `make demo`
        line = f'to use the command rvm in this terminal: . {shlex.quote(os.path.relpath(activate))}'
        console.print(line, highlight=False, markup=False)


if __name__ == '__main__':
    from rvm_jax import cli

    cli.main(['demo', *sys.argv[1:]])
