"""Perception Test: points in real videos, tracked by people (4DS; TAP-Vid).

root holds point_tracking_valid.json (or point_tracking_train.json) and videos/<video_id>.mp4.
"""

import os
from typing import Any

import numpy as np

from rvm_jax.errors import UserError
from rvm_jax.probing.datasets.reading.dataset_files import DatasetFiles, checked_split
from rvm_jax.probing.datasets.reading.images import read_video
from rvm_jax.probing.datasets.reading.transforms import central_crop, choose_frames, padded, whole_frame

ORIGIN = DatasetFiles(
    'Perception Test (point tracking)',
    'github.com/google-deepmind/perception_test',
    'point_tracking_valid.json and videos/<video_id>.mp4',
)
SPLITS = {'train': 'train', 'val': 'valid'}


class PerceptionTest:
    """example(index): id, video_THWC, queries_Q3, tracks_QT2, visible_QT, in_scene_QT, valid_Q with Q num_tracks.

    num_frames frames, stride apart, from the first frame of the video (start='center': at its center); training starts
    anywhere. The query of a point is where it is first seen in the clip; points that are never seen are left out. If a
    point is hidden, its place is the last known one (before the first one: the first). Whether it is in the scene is
    not known then, so in_scene equals visible.
    Our choice, because unpublished: a stride of 4 for RVM; frames are squeezed into a square, as in TAP-Vid, so that
    every point stays (center_crop=True: the central square); if there are more than num_tracks points, the first ones.
    UserError if the table or a video is missing; DataError if a video cannot be read.
    """

    def __init__(
        self, root, split, *, num_frames=16, image_size=224, stride=4, num_tracks=64, start='first', center_crop=False
    ):
        name = checked_split(split, SPLITS)
        if start not in ('first', 'center'):
            raise UserError(f'start {start!r}', 'is not a valid start', 'give first or center')
        table = ORIGIN.find(root, 'the tracks', f'point_tracking_{name}.json', f'all_{name}.json', f'{name}.json')
        folder = ORIGIN.find(root, 'the videos', 'videos')
        self.items = []
        with ORIGIN.reading(table):
            entries = [
                (ORIGIN.inside(table, video_id), entry['metadata']['frame_rate'], entry['point_tracking'])
                for video_id, entry in ORIGIN.json(table).items()
                if entry['metadata']['split'] == name and entry.get('point_tracking')
            ]
        for video_id, fps, tracks in entries:
            path = os.path.join(folder, f'{video_id}.mp4')
            if not os.path.exists(path):
                raise ORIGIN.missing(path, f'a video of {os.path.basename(table)}', root)
            self.items.append((path, video_id, fps, tracks))
        if not self.items:
            raise UserError(table, f'does not have a point track of split {name}', 'take the table of that split')
        self.num_frames = num_frames
        self._window = {'num_frames': num_frames, 'stride': stride, 'start': start}
        self._image_size, self._num_tracks = image_size, num_tracks
        self._crop = central_crop if center_crop else whole_frame

    def __len__(self) -> int:
        return len(self.items)

    def example(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """One clip and its tracks."""
        path, video_id, fps, entries = self.items[index]
        with ORIGIN.reading_item(path):
            return {'id': video_id, **self._clip(path, fps, entries, rng)}

    def _clip(self, path, fps, entries, rng):
        frames, numbers = read_video(path, lambda total: choose_frames(rng, total, name=path, **self._window), fps)
        crop = self._crop(*frames[0].shape[:2])
        tracks_QT2, visible_QT = _tracks(crop, entries, numbers)
        is_seen_Q = visible_QT.any(1)
        tracks_QT2, visible_QT = tracks_QT2[is_seen_Q], visible_QT[is_seen_Q]
        first_Q = visible_QT.argmax(1)
        at_first_Q2 = tracks_QT2[np.arange(len(first_Q)), first_Q]
        arrays = {
            'queries_Q3': np.concatenate([first_Q[:, None].astype(np.float32), at_first_Q2], 1),
            'tracks_QT2': tracks_QT2,
            'visible_QT': visible_QT,
            'in_scene_QT': visible_QT,
            'valid_Q': np.ones(len(first_Q), bool),
        }
        arrays = {name: padded(array, self._num_tracks) for name, array in arrays.items()}
        return {'video_THWC': crop.frames(frames, self._image_size), **arrays}


def _tracks(crop, entries, numbers):
    """(tracks_QT2 in [0, 1] of the crop, visible_QT) at these frames of the video."""
    tracks_QT2 = np.zeros((len(entries), len(numbers), 2), np.float32)
    visible_QT = np.zeros(tracks_QT2.shape[:2], bool)
    for entry, track_T2, visible_T in zip(entries, tracks_QT2, visible_QT, strict=True):
        places = {number: place for place, number in enumerate(entry['frame_ids'])}
        points_X2 = crop.points(np.array(entry['points']).T[:, ::-1])  # rows are y and x
        visible_T[:] = [n in places and _is_inside(points_X2[places[n]]) for n in numbers.tolist()]
        seen = np.flatnonzero(visible_T)
        if len(seen):
            last_T = seen[np.searchsorted(seen, np.arange(len(numbers)), side='right').clip(1) - 1]
            track_T2[:] = points_X2[[places[n] for n in numbers[last_T].tolist()]]
    return tracks_QT2, visible_QT


def _is_inside(point_2):
    return bool(((point_2 >= 0) & (point_2 <= 1)).all())
