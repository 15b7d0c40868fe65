"""ImageNet-1k: 1000 classes of pictures (WALT probes).

root holds train/<wnid>/*.JPEG, and val/ with either the same folders or, as in the original download, only val/*.JPEG.
In that case root also holds the labels: LOC_val_solution.csv (Kaggle), or ILSVRC2012_validation_ground_truth.txt and
meta.mat of the devkit (in root, or where ILSVRC2012_devkit_t12.tar.gz puts them).
"""

import csv
import io
import os
import re

from rvm_jax.errors import UserError
from rvm_jax.probing.datasets.reading.dataset_files import DatasetFiles, checked_split
from rvm_jax.probing.datasets.reading.labelled_clips import LabelledImages
from rvm_jax.probing.datasets.reading.matlab import read_mat
from rvm_jax.storage import files

ORIGIN = DatasetFiles(
    'ImageNet ILSVRC 2012',
    'image-net.org',
    'train/<wnid>/*.JPEG, val/*.JPEG and ILSVRC2012_devkit_t12/ (or val/<wnid>/)',
)
SPLITS = {'train': 'train', 'val': 'val'}
PICTURES = ('.jpeg', '.jpg', '.png')
TRUTH = 'ILSVRC2012_validation_ground_truth.txt'


class ImageNet(LabelledImages):
    """Pictures with the number of their class, see LabelledImages: the position of its wnid among all, sorted.

    All wnids are those of train/, or of the split itself if there is no train/. UserError if a folder or labels are
    missing.
    """

    def __init__(self, root, split, *, image_size=224, resize_to=256, crop_area=(0.08, 1.0), flip=0.5, repeat=1):
        folder = ORIGIN.find(root, 'pictures', checked_split(split, SPLITS))
        pairs = list(_in_folders(folder)) or list(_flat(root, folder))
        if not pairs:
            raise ORIGIN.missing(os.path.join(folder, '*.JPEG'), 'pictures', root)
        train = os.path.join(root, 'train')
        classes = sorted(_folders(train) if os.path.isdir(train) else {wnid for _, wnid in pairs})
        numbers = {wnid: number for number, wnid in enumerate(classes)}
        unknown = sorted({wnid for _, wnid in pairs} - set(numbers))
        if unknown:
            raise ORIGIN.missing(os.path.join(train, unknown[0]), 'a class', root)
        items = [(path, os.path.splitext(os.path.basename(path))[0], numbers[wnid]) for path, wnid in pairs]
        super().__init__(
            items, classes, image_size=image_size, resize_to=resize_to, crop_area=crop_area, flip=flip, repeat=repeat
        )


def _folders(folder):
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())


def _pictures(folder):
    return sorted(name for name in os.listdir(folder) if name.lower().endswith(PICTURES))


def _in_folders(folder):
    """Yield (path, wnid) of pictures in a folder for each class."""
    for wnid in _folders(folder):
        for name in _pictures(os.path.join(folder, wnid)):
            yield os.path.join(folder, wnid, name), wnid


def _flat(root, folder):
    """The same for pictures in one folder, with a list of their classes."""
    names = _pictures(folder)
    if not names:
        return []
    wnids = _kaggle(root) or _devkit(root, names)
    unlisted = [name for name in names if os.path.splitext(name)[0] not in wnids]
    if unlisted:
        reason = f'is not in the list of labels ({len(unlisted)} pictures are not)'
        raise UserError(os.path.join(folder, unlisted[0]), reason, 'take the list that belongs to these pictures')
    return [(os.path.join(folder, name), wnids[os.path.splitext(name)[0]]) for name in names]


def _kaggle(root):
    """{name: wnid} of Kaggle's list; None if it does not exist."""
    path = os.path.join(root, 'LOC_val_solution.csv')
    if not os.path.exists(path):
        return None
    with ORIGIN.reading(path):
        rows = csv.DictReader(io.StringIO(files.read(path).decode()))
        return {row['ImageId']: row['PredictionString'].split()[0] for row in rows}


def _devkit(root, names):
    """{name: wnid} of the devkit's list: line i has the class number of picture number i, and meta.mat has its wnid."""
    kit = 'ILSVRC2012_devkit_t12/data/'
    truth = ORIGIN.find(root, 'labels of val', kit + TRUTH, TRUTH)
    meta = ORIGIN.find(root, 'names of its classes', kit + 'meta.mat', 'meta.mat')
    with ORIGIN.reading(truth):
        numbers = [int(line) for line in ORIGIN.lines(truth)]
    if len(numbers) != len(names):
        raise ORIGIN.broken(truth, f'has {len(numbers)} labels for {len(names)} pictures')
    wnids, stems = _wnids(meta), [os.path.splitext(name)[0] for name in names]
    for line, stem in enumerate(stems, 1):  # a picture that is gone and a stray one would shift all between them
        if int(re.search('[0-9]*$', stem)[0] or 0) != line:
            raise ORIGIN.broken(truth, f'has a label for picture {line}, and {stem} is in its place')
    with ORIGIN.reading(meta):
        return {stem: wnids[number] for stem, number in zip(stems, numbers, strict=True)}


def _wnids(meta):
    """{number in the devkit: wnid}."""
    with ORIGIN.reading(meta):
        return {int(synset['ILSVRC2012_ID'].item()): synset['WNID'] for synset in read_mat(meta, 'synsets')}
