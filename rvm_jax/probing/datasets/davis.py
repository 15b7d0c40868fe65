"""DAVIS 2017: masks of objects, 30 videos for validation (RVM, nearest-neighbor evaluation).

root holds ImageSets/2017/val.txt (one video name per line), JPEGImages/480p/<name>/*.jpg and
Annotations/480p/<name>/*.png, where the palette index is the number of the object.
"""

from rvm_jax.probing.datasets.reading.dataset_files import DatasetFiles, checked_split
from rvm_jax.probing.datasets.reading.labelled_frames import LabelledFrames, list_pictures, masked_video, paired

ORIGIN = DatasetFiles(
    'DAVIS 2017 (480p)',
    'davischallenge.org',
    'ImageSets/2017/val.txt, JPEGImages/480p/<video>/*.jpg and Annotations/480p/<video>/*.png',
)
SPLITS = {'train': 'train', 'val': 'val'}


class Davis:
    """video(index): LabelledFrames with masks of objects; 0 is the background.

    UserError if the list is missing or empty, or if frames or masks of a video in it are missing.
    """

    def __init__(self, root, split='val'):
        table = ORIGIN.find(root, 'list of videos', f'ImageSets/2017/{checked_split(split, SPLITS)}.txt')
        self.items = [
            (
                name,
                *paired(
                    ORIGIN,
                    list_pictures(ORIGIN, root, f'JPEGImages/480p/{name}', 'frames of a video'),
                    list_pictures(ORIGIN, root, f'Annotations/480p/{name}', 'masks of a video'),
                ),
            )
            for name in ORIGIN.names(table, 'video')
        ]

    def __len__(self) -> int:
        return len(self.items)

    def video(self, index: int) -> LabelledFrames:
        """The video; its files are read when they are needed."""
        return masked_video(*self.items[index])
