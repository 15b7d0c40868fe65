"""What config.data names, opened: a mixture to train on, and the held-out videos."""

from rvm_jax.data.mixture import Mixture, Part
from rvm_jax.data.sources.folder import FolderSource


def open_training(data):
    """The Mixture of `config.data`: data.mixture, or data.path alone. UserError if something is not there."""
    if data.mixture:
        return Mixture(Part(open_source(path, 'train'), fps, weight) for path, fps, weight in data.mixture)
    return Mixture([Part(open_source(data.path, 'train'), data.fps)])


def open_held_out(data):
    """The Mixture, of one part, at data.eval_path, or None where that is empty."""
    return Mixture([Part(open_source(data.eval_path, 'val'), data.fps)]) if data.eval_path else None


def open_source(path, split):
    """The source at a path: a folder, glob or list of videos, or one video. split is 'train' or 'val'."""
    return FolderSource(path)
