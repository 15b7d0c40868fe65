"""iNaturalist 2018: 8142 species (WALT probes).

root holds train2018.json and val2018.json (COCO's format) and the pictures that they name, in train_val2018/.
"""

import os

from rvm_jax.probing.datasets.reading.dataset_files import DatasetFiles, checked_split
from rvm_jax.probing.datasets.reading.labelled_clips import LabelledImages

ORIGIN = DatasetFiles(
    'iNaturalist 2018', 'github.com/visipedia/inat_comp', 'train2018.json, val2018.json and train_val2018/'
)
SPLITS = {'train': 'train2018.json', 'val': 'val2018.json'}


class INaturalist(LabelledImages):
    """Pictures with the category_id as label; see LabelledImages.

    UserError if the table or its first picture is missing; other missing pictures are DataErrors when they are read.
    """

    def __init__(self, root, split, *, image_size=224, resize_to=256, crop_area=(0.08, 1.0), flip=0.5, repeat=1):
        table = ORIGIN.find(root, 'list of pictures', checked_split(split, SPLITS))
        values = ORIGIN.json(table)
        with ORIGIN.reading(table):
            labels = {entry['image_id']: entry['category_id'] for entry in values['annotations']}
            names = {entry['id']: entry.get('name', str(entry['id'])) for entry in values['categories']}
            pictures = [(ORIGIN.inside(table, entry['file_name']), labels[entry['id']]) for entry in values['images']]
        items = [(os.path.join(root, name), os.path.splitext(name)[0], label) for name, label in pictures]
        if not items:
            raise ORIGIN.broken(table, 'does not list a picture')
        if sorted(names) != list(range(len(names))):
            raise ORIGIN.broken(table, 'has categories that are not numbered from 0')
        if not os.path.exists(items[0][0]):
            raise ORIGIN.missing(items[0][0], f'the first picture of {os.path.basename(table)}', root)
        super().__init__(
            items, [names[number] for number in range(len(names))], image_size=image_size, resize_to=resize_to,
            crop_area=crop_area, flip=flip, repeat=repeat,
        )  # fmt: skip
