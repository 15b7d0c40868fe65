"""HMDB51: 51 classes of what people do (Kuehne et al., ICCV 2011).

root holds <class>/<video>.avi (or in hmdb51_org/) and testTrainMulti_7030_splits/<class>_test_split1.txt for each class
and each of the three splits, with lines '<video>.avi 1': 1 is for training, 2 for the test, 0 for neither.
"""

import os

from rvm_jax.probing.datasets.reading.dataset_files import MOST_CHARACTERS, DatasetFiles, checked_split
from rvm_jax.probing.datasets.reading.labelled_clips import LabelledVideos
from rvm_jax.storage import files

ORIGIN = DatasetFiles(
    'HMDB51',
    'serre-lab.clps.brown.edu, HMDB: hmdb51_org.rar, which has a .rar for each class, and test_train_splits.rar',
    'hmdb51_org/<class>/<video>.avi and testTrainMulti_7030_splits/<class>_test_split1.txt',
)
SPLITS = {'train': '1', 'val': '2'}


class HMDB51(LabelledVideos):
    """Clips of num_frames frames, stride apart, at the rate of the file; see LabelledVideos.

    split_number is 1, 2 or 3, the splits of the authors; their test videos are evaluated. Classes are sorted by name.
    None of the works that we follow probes HMDB51: clips and readout are those of Kinetics, and an eighth of its steps
    is our choice.
    UserError if a list or a video is missing.
    """

    def __init__(
        self, root, split, *, split_number=1, num_frames=16, image_size=224, stride=2, fps=None, num_clips=7,
        crop_area=(0.3, 1.0), flip=0.5, colors=False,
    ):  # fmt: skip
        wanted = checked_split(split, SPLITS)
        lists = ORIGIN.find(root, 'the lists of the splits', 'testTrainMulti_7030_splits')
        tables = _tables(lists, split_number, root)
        folder = ORIGIN.find(root, 'the videos', 'hmdb51_org', '.')
        classes = sorted(tables)
        items = [
            (os.path.join(folder, label, name), f'{label}/{os.path.splitext(name)[0]}', number)
            for number, label in enumerate(classes)
            for name, part in _read_table(tables[label])
            if part == wanted
        ]
        if not items:
            raise ORIGIN.broken(lists, f'does not list a video of {split}')
        ORIGIN.check_videos([path for path, _, _ in items], root)
        super().__init__(
            items, classes, num_frames=num_frames, image_size=image_size, stride=stride, fps=fps,
            num_clips=1 if split == 'train' else num_clips, crop_area=crop_area, flip=flip, colors=colors,
        )  # fmt: skip


def _tables(folder, split_number, root):
    """{class: path of its list} of one of the three splits."""
    ending = f'_test_split{split_number}.txt'
    found = {
        name.removesuffix(ending): os.path.join(folder, name) for name in files.names(folder) if name.endswith(ending)
    }
    if not found:
        raise ORIGIN.missing(os.path.join(folder, f'<class>{ending}'), 'list of videos', root)
    return found


def _read_table(path):
    """[(file name, '0', '1' or '2'), ...]."""
    rows = []
    for line in ORIGIN.names(path, 'video'):
        name, _, part = line.rpartition(' ')
        if part not in ('0', '1', '2') or not name or '/' in name:
            raise ORIGIN.broken(path, f'has a line that is not a video with 0, 1 or 2 ({line[:MOST_CHARACTERS]})')
        rows.append((name.strip(), part))
    return rows
