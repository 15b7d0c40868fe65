"""UCF101: 101 classes of what people do (Soomro et al., arXiv 1212.0402).

root holds UCF-101/<class>/<video>.avi and ucfTrainTestlist/ with classInd.txt ('1 ApplyEyeMakeup') and, for each of
the three splits, trainlist01.txt and testlist01.txt ('ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1').
"""

import os

from rvm_jax.probing.datasets.reading.dataset_files import MOST_CHARACTERS, DatasetFiles, checked_split
from rvm_jax.probing.datasets.reading.labelled_clips import LabelledVideos

ORIGIN = DatasetFiles(
    'UCF101',
    'crcv.ucf.edu/data/UCF101.php: the videos, and the splits for action recognition',
    'UCF-101/<class>/<video>.avi and ucfTrainTestlist/{classInd,trainlist01,testlist01}.txt',
)
SPLITS = {'train': 'trainlist', 'val': 'testlist'}


class UCF101(LabelledVideos):
    """Clips of num_frames frames, stride apart, at the rate of the file; see LabelledVideos.

    split_number is 1, 2 or 3, the splits of the authors; their test list is evaluated. None of the works that we follow
    probes UCF101: clips and readout are those of Kinetics, and a quarter of its steps is our choice.
    UserError if a list or a video is missing.
    """

    def __init__(
        self, root, split, *, split_number=1, num_frames=16, image_size=224, stride=2, fps=None, num_clips=7,
        crop_area=(0.3, 1.0), flip=0.5, colors=False,
    ):  # fmt: skip
        classes = _classes(ORIGIN.find(root, 'the names of the classes', 'ucfTrainTestlist/classInd.txt'))
        name = f'{checked_split(split, SPLITS)}{split_number:02}.txt'
        table = ORIGIN.find(root, 'list of videos', f'ucfTrainTestlist/{name}')
        numbers = {name: number for number, name in enumerate(classes)}
        folder = ORIGIN.find(root, 'the videos', 'UCF-101', '.')
        items = [_item(table, folder, line, numbers) for line in ORIGIN.listed(table, 'video')]
        ORIGIN.check_videos([path for path, _, _ in items], root)
        super().__init__(
            items, classes, num_frames=num_frames, image_size=image_size, stride=stride, fps=fps,
            num_clips=1 if split == 'train' else num_clips, crop_area=crop_area, flip=flip, colors=colors,
        )  # fmt: skip


def _classes(path):
    """Names of the classes, in the order of their numbers, which start at 1."""
    with ORIGIN.reading(path):
        named = {int(line.split()[0]): line.split()[1] for line in ORIGIN.listed(path, 'class')}
    if sorted(named) != list(range(1, len(named) + 1)):
        raise ORIGIN.broken(path, 'has classes that are not numbered from 1')
    return [named[number] for number in sorted(named)]


def _item(table, folder, line, numbers):
    """(path, id, label) of a line; the folder of a video is its class."""
    name = ORIGIN.inside(table, line.split()[0])
    label = name.split('/')[0]
    if label not in numbers:
        raise ORIGIN.broken(table, f'has a video of no class in classInd.txt ({line[:MOST_CHARACTERS]})')
    return os.path.join(folder, name), os.path.splitext(name)[0], numbers[label]
