"""Rendered clips with known truth for every task, in place of public datasets that have to be downloaded."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from rvm_jax.data.video import decode
from rvm_jax.probing.datasets.reading.labelled_frames import LabelledFrames
from rvm_jax.synthetic.render import noise_square
from rvm_jax.synthetic.synthetic_videos import read_truth, write_videos

SCENES = {'num_objects': 2, 'wavelength': 72.0, 'camera_speed': (2.5, 3.5)}  # as in the videos of `rvm demo`
FPS = 10


class DemoClips:
    """`count` videos in a folder, rendered if they are missing; example(index) has the truth for every task.

    It has the keys of the public datasets, and also masks_THW, the object at each pixel (0 is the background);
    objects_Q, the object of each track; and corners_42, how far the camera moves the four corners of the background
    from one frame to the next, x, y as fractions of the side. Queries of points and boxes are in frame 0: points that
    are hidden there and boxes that are outside are not valid. Rendered clips are fixed: training and evaluation see the
    same frames.
    """

    def __init__(
        self,
        folder: str,
        count: int,
        *,
        seed: int,
        num_frames: int,
        size: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._paths = write_videos(
            folder, count, seed=seed, num_frames=num_frames, height=size, width=size, fps=FPS, scene_options=SCENES,
            progress=progress,
        )  # fmt: skip
        self._size, self.num_frames = size, num_frames

    def __len__(self) -> int:
        return len(self._paths)

    def example(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """One clip and its truth as a dict of arrays."""
        path = self._paths[index]
        found = read_truth(path.with_suffix('.npz'))
        frames_THWC = np.stack(list(decode.iterate_frames(str(path))))
        tracks_QT2 = found.tracks_PT2 / self._size
        boxes_QT4 = found.boxes_KT4 / self._size
        in_frame_QT = np.asarray((boxes_QT4[..., 2:] > boxes_QT4[..., :2]).all(-1))
        queries_Q3 = np.concatenate([np.zeros((len(tracks_QT2), 1), np.float32), tracks_QT2[:, 0]], axis=1)
        return {
            'id': path.stem,
            'video_THWC': frames_THWC,
            'label': np.int32(found.motion_class),
            'depth_THW': found.depth_THW,
            'queries_Q3': queries_Q3,
            'tracks_QT2': tracks_QT2,
            'visible_QT': found.visible_PT,
            'in_scene_QT': ((tracks_QT2 >= 0) & (tracks_QT2 < 1)).all(-1),
            'valid_Q': found.visible_PT[:, 0],
            'boxes_QT4': boxes_QT4,
            'known_QT': in_frame_QT & in_frame_QT[:, :1],
            'corners_42': corner_motion(found.camera_T23[1], self._size),
            'masks_THW': found.masks_THW,
            'objects_Q': found.track_objects_P,
        }


@dataclasses.dataclass(frozen=True)
class DemoMasks:
    """video(index): LabelledFrames of rendered clips with masks of the objects of the first frame."""

    clips: DemoClips

    def __len__(self) -> int:
        return len(self.clips)

    def video(self, index: int) -> LabelledFrames:
        """The video and the masks of its frames."""
        example = self.clips.example(index)
        masks_THW = example['masks_THW'].astype(np.uint8)
        masks_THW = np.where(np.isin(masks_THW, np.unique(masks_THW[0])), masks_THW, 0)
        return _labelled(example, masks_THW)


@dataclasses.dataclass(frozen=True)
class DemoKeypoints:
    """video(index): LabelledFrames of rendered clips with the points of the nearest object, which is never hidden."""

    clips: DemoClips

    def __len__(self) -> int:
        return len(self.clips)

    def video(self, index: int) -> LabelledFrames:
        """The video and the points (Q, 2), x, y in pixels, of its frames."""
        example = self.clips.example(index)
        nearest_Q = example['objects_Q'] == example['objects_Q'].max()
        return _labelled(example, example['tracks_QT2'][nearest_Q].swapaxes(0, 1) * example['video_THWC'].shape[1])


@dataclasses.dataclass(frozen=True)
class NoiseSquares:
    """Clips of a square of noise that moves over noise, each from another start; see `render.noise_square`."""

    count: int
    seed: int
    num_frames: int
    size: int  # pixels

    def __len__(self) -> int:
        return self.count

    def example(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """One clip, with masks_THW: 1 on the square."""
        rng = np.random.default_rng((self.seed, index))
        frames_THWC, masks_THW = noise_square(rng, self.num_frames, self.size, anywhere=True)
        return {'id': f'noise_{index:05d}', 'video_THWC': frames_THWC, 'masks_THW': masks_THW}


def corner_motion(camera_23: np.ndarray, size: int) -> np.ndarray:
    """How far a camera matrix moves the corners of a frame of `size` pixels: (4, 2) fractions of the side."""
    corners_42 = size * np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.float32)
    moved_42 = corners_42 @ camera_23[:, :2].T + camera_23[:, 2]
    return ((moved_42 - corners_42) / size).astype(np.float32)


def _labelled(example, labels_T):
    frames_THWC = example['video_THWC']
    return LabelledFrames(example['id'], len(frames_THWC), lambda: iter(frames_THWC), labels_T.__getitem__)
