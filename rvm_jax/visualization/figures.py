"""Figures of matplotlib, drawn in memory: what the user's matplotlib is set to does not matter."""

import contextlib
import functools
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np


@contextlib.contextmanager
def new_figure(**arguments: Any) -> Iterator[Any]:
    """Yield a matplotlib Figure made with these arguments, with matplotlib's own defaults, to be drawn by `drawn`.

    No backend is loaded but Agg. Warnings, such as of a character that the font does not have, are for who programs
    with matplotlib: they are left out, and such a character is drawn as a box.
    """
    matplotlib = _load()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith('backend')}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with matplotlib.rc_context(defaults):
            figure = Figure(**arguments)
            FigureCanvasAgg(figure)
            yield figure


def drawn(figure: Any) -> np.ndarray:
    """The picture of a figure, uint8 HWC RGB; call it within the block of `new_figure`."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


@functools.cache
def _load():
    """matplotlib, which cannot be imported where MPLBACKEND names a backend that is not installed.

    A notebook sets it for all that it starts. Whoever uses matplotlib beside us still finds it as it was.
    """
    backend = os.environ.pop('MPLBACKEND', None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ['MPLBACKEND'] = backend
    if backend:
        with contextlib.suppress(ValueError):
            matplotlib.rcParams['backend'] = backend
    logging.getLogger('matplotlib').setLevel(logging.ERROR)
    return matplotlib
