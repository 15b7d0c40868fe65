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
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rvm_jax.errors import UserError

if TYPE_CHECKING:
    import ml_collections
    import numpy as np

    from rvm_jax.models.rvm import RVM
    from rvm_jax.visualization.report import Row

FEATURE_CLIPS, FRAMES_SHOWN, FIRST_SHOWN = 3, 24, 4  # the state needs some frames to see motion
RESULTS = 'results.json'
GUESS = 0.37  # mean IoU of a guess that knows only that the square is a quarter of the frame


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rvm demo`."""
    parser.add_argument('--output', default='runs/demo', help='folder for videos, model and report (runs/demo)')
    parser.add_argument('--config', default='configs/tiny.py', metavar='RECIPE', help='recipe (configs/tiny.py)')


def run(args: argparse.Namespace) -> None:
    """Run all parts; files of an earlier start are used again."""
    from rvm_jax import config, pretrained
    from rvm_jax.storage import files
    from rvm_jax.synthetic import demo_videos
    from rvm_jax.training.loop import train
    from rvm_jax.training.run_record import run_facts
    from rvm_jax.visualization import canvas
    from rvm_jax.visualization.report import write_report

    folders = {name: os.path.join(args.output, name) for name in ('videos', 'train', 'export')}
    recipe = config.load(args.config, [*demo_videos.overrides(folders['videos']), *args.overrides])
    demo_videos.render(folders['videos'], seed=recipe.seed, fps=recipe.data.fps)
    train(recipe, folders['train'], pretrained.load)
    model = pretrained.load(folders['train'])
    facts = run_facts(folders['train'], pretrained.read_run(folders['train']), recipe, recipe.steps)
    pretrained.save_pretrained(model, folders['export'], facts=facts)
    model = pretrained.load(folders['export'])
    losses, panel_HWC = evaluate(model, recipe)
    squares, squares_HWC = find_noise_square(model)
    results = rows(losses, squares)
    shown = {'reconstruction': _reconstruction(recipe, panel_HWC)}
    shown |= {f'features_{n}': picture for n, picture in enumerate(_held_out_features(model, recipe), 1)}
    shown |= {'noise_square': _noise_square(squares, squares_HWC)}
    summary = (
        f'{recipe.steps:,} steps of {recipe.batch_size} clips; held-out error '
        f'{losses["loss"] / better(losses):.2f} of the better trivial predictor'
    )
    report = os.path.join(args.output, 'report.html')
    pictures = [*_loss_curve(folders['train']), *shown.values()]
    write_report(report, title='RVM demo', summary=summary, rows=results, pictures=pictures)
    for name, picture in shown.items():
        canvas.write_png(os.path.join(args.output, f'{name}.png'), picture.image)
    files.write_json(os.path.join(args.output, RESULTS), losses | {'noise_square': squares}, indent=1)
    print_table(results, report)


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


def features_picture(model: RVM, frames_THWC: np.ndarray) -> np.ndarray:
    """PCA and K-means of the features of a video, which the model reads frame by frame, uint8 HWC.

    What they owe to the place of a patch alone, most of their variance, is taken out.
    """
    from rvm_jax import inference
    from rvm_jax.visualization.feature_maps import feature_panel

    features_ThwD = inference.video_grid(model, frames_THWC, frames_THWC.shape[1:3])
    return feature_panel(frames_THWC, features_ThwD - inference.position_of(model, frames_THWC), first=FIRST_SHOWN)


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

    caption = (
        'The first three principal components of the features as colors, and K-means with five clusters; both are '
        'fitted to all frames of the clip at once. What a feature owes to its place in the frame is taken out. Frames '
        'are enlarged to twice the size of the training, for a finer grid.'
    )
    pictures = []
    for index in range(FEATURE_CLIPS):
        video = FolderSource(recipe.data.eval_path)[index].name
        frames = inference.video_frames(video, short_side=2 * SIDE, patch_size=model.patch_size)
        picture_HWC = features_picture(model, np.stack(list(frames))[:FRAMES_SHOWN])
        pictures.append(Picture(f'Features of held-out clip {index + 1}', caption if not index else '', picture_HWC))
    return pictures


def find_noise_square(model: RVM) -> tuple[dict[str, float], np.ndarray]:
    """How well linear readouts find squares of noise: {'model', 'image encoder': mIoU}, and a picture, uint8 HWC."""
    import numpy as np

    from rvm_jax.probing.backbone import Backbone
    from rvm_jax.probing.demo import demo_suite
    from rvm_jax.probing.demo.demo_clips import NoiseSquares
    from rvm_jax.probing.demo.demo_readouts import FIRST_FRAME, GRID, Data, find_squares
    from rvm_jax.probing.metrics import segmentation
    from rvm_jax.terminal import progress_bars
    from rvm_jax.visualization.canvas import blend, tint
    from rvm_jax.visualization.movies import contact_sheet

    size = GRID * model.patch_size
    train, held_out = (
        NoiseSquares(count, demo_suite.SEED + n, demo_suite.NOISE_FRAMES, size)
        for n, count in enumerate((demo_suite.NOISE_TRAIN, demo_suite.NOISE_HELD_OUT))
    )
    scores, rows = {}, []
    with progress_bars(transient=True) as progress:
        bar = progress.add_task('noise square', total=2 * (len(train) + len(held_out)))
        for name, tap in (('image encoder', 'encoder'), ('model', 'core')):
            backbone = Backbone(model, tap=tap)
            data = Data.of(backbone, train, done=lambda count: progress.advance(bar, count))
            asked = Data.of(backbone, held_out, like=data, done=lambda count: progress.advance(bar, count))
            truth_NTHW = asked.truth['masks_THW'][:, FIRST_FRAME:]
            found_NTHW = find_squares(data, asked)
            scores[name] = segmentation.mean_iou(segmentation.confusion(found_NTHW, truth_NTHW, 2))
            rows.append((name, found_NTHW))
    right_N = (found_NTHW == truth_NTHW).mean((1, 2, 3))
    shown = int(np.argsort(right_N)[len(held_out) // 2])  # neither the best nor the worst
    noise_THWC = held_out.example(shown)['video_THWC'][FIRST_FRAME:]
    pale_THWC = blend(noise_THWC, np.full(3, 255, np.uint8))  # else the color of the square is hard to see
    masks = [*((name, found_NTHW[shown]) for name, found_NTHW in rows), ('truth', truth_NTHW[shown])]
    videos = [('video', noise_THWC), *((name, tint(pale_THWC, mask_THW)) for name, mask_THW in masks)]
    return scores, contact_sheet(videos, 8)


def better(losses: dict[str, float]) -> float:
    """The loss of the better trivial predictor."""
    return min(losses['copy_last'], losses['mean_color'])


def _noise_square(scores, picture_HWC):
    from rvm_jax.visualization.report import Picture

    caption = (
        'A square of noise moves over noise: no single frame shows it, only motion does. A linear readout of each '
        'patch says whether the patch is in the square. It was trained on other such clips; the model never saw noise. '
        f'Mean IoU of square and surroundings: {scores["model"]:.2f} from the model, {scores["image encoder"]:.2f} '
        f'from its image encoder, which sees each frame by itself; a guess has {GUESS}. This clip is the median one.'
    )
    return Picture('The noise square', caption, picture_HWC)


def rows(losses: dict[str, float], squares: dict[str, float]) -> list[Row]:
    """The results as rows of the report and of the terminal."""
    from rvm_jax.visualization.report import Row

    return [
        Row('model', f'{losses["loss"]:.5f}', 'mean squared error on held-out clips'),
        Row('copy the last source frame', f'{losses["copy_last"]:.5f}', 'as if nothing moved'),
        Row('mean color', f'{losses["mean_color"]:.5f}', 'the mean color of the source frames'),
        Row('model / better of the two', f'{losses["loss"] / better(losses):.3f}', 'below 1: it learned to see motion'),
        Row('noise square, model', f'{squares["model"]:.3f}', f'mean IoU of a linear readout; a guess has {GUESS}'),
        Row('noise square, image encoder', f'{squares["image encoder"]:.3f}', 'the same without the core'),
    ]


def print_table(results: Sequence[Row], report: str) -> None:
    """Print the results and where the report is."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title='held-out clips')
    table.add_column('result')
    table.add_column('value', justify='right')
    for row in results:
        table.add_row(row.name, row.value)
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f'report: {os.path.abspath(report)}', highlight=False, markup=False)
    activate = os.path.join(sys.prefix, 'bin', 'activate')
    if shutil.which('rvm') is None and os.path.exists(activate):  # as after `make demo`
        line = f'to use the command rvm in this terminal: . {shlex.quote(os.path.relpath(activate))}'
        console.print(line, highlight=False, markup=False)


if __name__ == '__main__':
    from rvm_jax import cli, huge_pages

    huge_pages.restart()
    cli.main(['demo', *sys.argv[1:]])
