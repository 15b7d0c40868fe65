"""Videos to train on where there are no others: for the demo, and for ablations without data of their own."""

import os

from rvm_jax.signals import StopRequest
from rvm_jax.synthetic.synthetic_videos import write_videos
from rvm_jax.terminal import progress_bars

NUM_TRAIN, NUM_HELD_OUT = 400, 64
SIDE = 64  # pixels of the rendered videos; the model sees crops
SCENES = {'num_objects': 2, 'wavelength': 72.0, 'camera_speed': (2.5, 3.5)}  # smooth and fast: learned in minutes


def overrides(folder: str) -> list[str]:
    """Overrides of a recipe that train on what `render` writes into the folder."""
    return [f'data.path={os.path.join(folder, "train")}', f'data.eval_path={os.path.join(folder, "held_out")}']


def render(folder: str, *, seed: int, fps: float) -> None:
    """Render the videos into `train` and `held_out` below a folder, with a progress bar on a terminal.

    Raises Stopped on SIGTERM or Ctrl-C. Videos that are there already are not rendered again.
    """
    _render(os.path.join(folder, 'train'), NUM_TRAIN, seed=seed, fps=fps)
    _render(os.path.join(folder, 'held_out'), NUM_HELD_OUT, seed=seed + 1, fps=fps)


def _render(folder, count, *, seed, fps):
    with StopRequest() as stop, progress_bars() as progress:
        stop.current = 'a video'
        task = progress.add_task(f'rendering {count} videos', total=count)

        def on_video(done, _total):
            progress.update(task, completed=done)
            stop.check(f'{done} of {count} videos are rendered')

        write_videos(
            folder,
            count,
            seed=seed,
            height=SIDE,
            width=SIDE,
            fps=fps,
            scene_options=SCENES,
            progress=on_video,
        )
