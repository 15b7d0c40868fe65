"""What a dataset and a task of a benchmark must have. To add one: a file with such a class, and a row in `registry`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import jax
    from flax import nnx

    from rvm_jax.probing.datasets.reading.labelled_frames import LabelledFrames


class ClipSource(Protocol):
    """A dataset of clips for a readout; its class is called as Dataset(root, split, **settings).

    Some members are optional: `fitted(model)` gives the source for the image size and the frame rate of a model, which
    `clip_format` states, `facts` is a dict that results store, and `table()` the text of a CSV file with all videos.
    """

    num_frames: int

    def __len__(self) -> int: ...

    def example(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """One clip: 'id' (text), 'video_THWC' (uint8) and its truth. rng draws crops and times; None in evaluation.

        Raises DataError if the clip cannot be read.
        """
        ...


class VideoSource(Protocol):
    """A dataset of videos whose labels are propagated; its class is called as Dataset(root, split, **settings)."""

    def __len__(self) -> int: ...

    def video(self, index: int) -> 'LabelledFrames':
        """One video with the labels of its frames."""
        ...


class ReadoutTask(Protocol):
    """A task whose readout is trained: a frozen dataclass whose fields are its settings.

    Two members are optional: `fitted(evaluated, trained)` gives the task for these sources, or raises UserError if they
    do not fit it, and `unused` names settings that the chosen readout does not read.
    """

    def readout(self, width: int, num_frames: int, rngs: 'nnx.Rngs') -> 'nnx.Module':
        """The module to train, for features of this width."""
        ...

    def loss(
        self, readout: Any, features_BTMD: 'jax.Array', batch: Mapping[str, 'jax.Array']
    ) -> tuple['jax.Array', dict[str, 'jax.Array']]:
        """The loss of a batch, and {name: value} to log beside it."""
        ...

    def predict(
        self, readout: Any, features_BTMD: 'jax.Array', batch: Mapping[str, 'jax.Array']
    ) -> dict[str, 'jax.Array']:
        """{name: array} with a leading axis of clips; `drawing` has the names that can be drawn."""
        ...

    def measure(self, found: Mapping[str, np.ndarray], example: Mapping[str, Any]) -> dict[str, Any]:
        """What `scores` needs of one prediction and its example, with the example's 'id'."""
        ...

    def scores(self, measures: Sequence[dict[str, Any]]) -> dict[str, float]:
        """{name: value} over all examples; one of the names is the metric of the benchmark."""
        ...


class PropagationTask(Protocol):
    """A task without training: labels of the first frame are carried through each video."""

    @property
    def settings(self) -> Any:
        """The `propagation.Settings`."""
        ...

    def predict(self, video: 'LabelledFrames', features: Callable[[Iterable], Iterator[np.ndarray]]) -> Iterator[Any]:
        """Yield the labels of each frame. features turns frames into (h, w, D) arrays, see `tasks.propagation`."""
        ...

    def measure(self, predictions: Iterator[Any], video: 'LabelledFrames') -> dict[str, np.ndarray]:
        """The arrays that are kept of a video."""
        ...

    def scores(self, records: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
        """{name: value} over all videos; one of the names is the metric of the benchmark."""
        ...
