"""Something-Something V2: 174 classes of actions with objects (RVM, section 11; 4DS).

root holds labels.json, train.json and validation.json (or with 'something-something-v2-' in front; or in labels/),
and the videos <id>.webm in 20bn-something-something-v2/, in videos/ or in root itself.
"""

import os
import re

from rvm_jax.probing.datasets.reading.dataset_files import MOST_CHARACTERS, DatasetFiles, checked_split
from rvm_jax.probing.datasets.reading.labelled_clips import LabelledVideos

ORIGIN = DatasetFiles(
    'Something-Something V2',
    'Qualcomm AI datasets',
    'labels.json, train.json, validation.json and 20bn-something-something-v2/<id>.webm',
)
SPLITS = {'train': 'train', 'val': 'validation'}


class SSv2(LabelledVideos):
    """Clips of num_frames frames, stride apart, of videos with 12 frames per second; see LabelledVideos.

    Clips are never mirrored, because labels say left and right. Our choice, because unpublished: crop_area, the
    strengths of the colors, and one clip at the center of the video for evaluation. Streaming readouts were trained
    with fps=6 and stride=1.
    UserError if a file of labels or a video is missing.
    """

    def __init__(
        self, root, split, *, num_frames=16, image_size=224, stride=2, fps=None, num_clips=1, crop_area=(0.3, 1.0),
        colors=True,
    ):  # fmt: skip
        name = checked_split(split, SPLITS)
        labels, table = _table(root, 'labels'), _table(root, name)
        with ORIGIN.reading(labels):
            numbers = {label: int(number) for label, number in ORIGIN.json(labels).items()}
        folder = ORIGIN.find(root, 'the videos', '20bn-something-something-v2', 'videos', '.')
        with ORIGIN.reading(table):
            pairs = [
                (ORIGIN.inside(table, str(entry['id'])), re.sub(r'[\[\]]', '', entry['template']))
                for entry in ORIGIN.json(table)
            ]
        if not pairs:
            raise ORIGIN.broken(table, 'does not list a video')
        if sorted(numbers.values()) != list(range(len(numbers))):
            raise ORIGIN.broken(labels, 'has labels that are not numbered from 0')
        for _, label in pairs:
            if label not in numbers:
                raise ORIGIN.broken(table, f'has a template that is not a label ({label[:MOST_CHARACTERS]})')
        items = [(os.path.join(folder, f'{name}.webm'), name, numbers[label]) for name, label in pairs]
        ORIGIN.check_videos([path for path, _, _ in items], root)
        super().__init__(
            items, sorted(numbers, key=numbers.__getitem__), num_frames=num_frames, image_size=image_size,
            stride=stride, fps=fps, num_clips=1 if split == 'train' else num_clips, crop_area=crop_area, flip=0.0,
            colors=colors,
        )  # fmt: skip


def _table(root, name):
    places = [f'{folder}{front}{name}.json' for folder in ('', 'labels/') for front in ('', 'something-something-v2-')]
    return ORIGIN.find(root, 'labels', *places)
