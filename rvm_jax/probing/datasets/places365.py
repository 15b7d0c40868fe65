"""Places365-Standard: 365 classes of scenes (WALT probes).

root holds places365_train_standard.txt and places365_val.txt (or in filelist/) with a line 'path label' for each
picture, and the pictures: those of train in data_256_standard/ (or data_large_standard/, data_256/, train/), those of
val in val_256/ (or val_large/, val/).
"""

import os

from rvm_jax.probing.datasets.reading.dataset_files import MOST_CHARACTERS, DatasetFiles, checked_split
from rvm_jax.probing.datasets.reading.labelled_clips import LabelledImages

ORIGIN = DatasetFiles(
    'Places365-Standard',
    'places2.csail.mit.edu',
    'places365_train_standard.txt, places365_val.txt, data_256_standard/ and val_256/',
)
SPLITS = {
    'train': ('places365_train_standard.txt', 'data_256_standard', 'data_large_standard', 'data_256', 'train'),
    'val': ('places365_val.txt', 'val_256', 'val_large', 'val'),
}
NUM_CLASSES = 365


class Places365(LabelledImages):
    """Pictures with the label of the list; see LabelledImages.

    UserError if the list, the folder, or the first picture of the list is missing; other missing pictures are
    DataErrors when they are read. Names of classes are in categories_places365.txt; without it they are numbers.
    """

    def __init__(self, root, split, *, image_size=224, resize_to=256, crop_area=(0.08, 1.0), flip=0.5, repeat=1):
        table, *folders = checked_split(split, SPLITS)
        table = ORIGIN.find(root, 'list of pictures', table, f'filelist/{table}')
        folder = ORIGIN.find(root, 'pictures', *folders)
        items = [_item(table, folder, line) for line in ORIGIN.listed(table, 'picture')]
        if not os.path.exists(items[0][0]):
            raise ORIGIN.missing(items[0][0], f'the first picture of {os.path.basename(table)}', root)
        super().__init__(
            items, _classes(root), image_size=image_size, resize_to=resize_to, crop_area=crop_area, flip=flip,
            repeat=repeat,
        )  # fmt: skip


def _item(table, folder, line):
    name, _, label = line.rpartition(' ')
    if not label.isdecimal() or int(label) >= NUM_CLASSES:
        raise ORIGIN.broken(table, f'has a line without a label from 0 to {NUM_CLASSES - 1} ({line[:MOST_CHARACTERS]})')
    # In the list of train, paths are relative to the folder but start with a slash.
    name = ORIGIN.inside(table, name.lstrip('/'))
    return os.path.join(folder, name), os.path.splitext(name)[0], int(label)


def _classes(root):
    path = os.path.join(root, 'categories_places365.txt')
    if not os.path.exists(path):
        return map(str, range(NUM_CLASSES))
    with ORIGIN.reading(path):
        numbers = {int(line.split()[1]): line.split()[0] for line in ORIGIN.lines(path)}
        return [numbers[number] for number in range(NUM_CLASSES)]
