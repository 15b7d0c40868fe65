"""VIP (Video Instance-level Parsing): 20 parts of people and their clothes (RVM, nearest-neighbor evaluation).

root holds lists/val_videos.txt (one video name per line), Images/<name>/*.jpg and
Annotations/Category_ids/<name>/*.png, where the value of a pixel is its class.
"""

from rvm_jax.probing.datasets.reading.dataset_files import DatasetFiles, checked_split
from rvm_jax.probing.datasets.reading.labelled_frames import LabelledFrames, list_pictures, masked_video, paired

ORIGIN = DatasetFiles(
    'VIP (Video Instance-level Parsing)',
    'sysu-hcp.net/lip',
    'lists/val_videos.txt, Images/<video>/*.jpg and Annotations/Category_ids/<video>/*.png',
)
SPLITS = {'train': 'train_videos', 'val': 'val_videos'}
CLASSES = (
    'background', 'hat', 'hair', 'sun-glasses', 'upper-clothes', 'dress', 'coat', 'socks', 'pants', 'gloves', 'scarf',
    'skirt', 'torso-skin', 'face', 'right-arm', 'left-arm', 'right-leg', 'left-leg', 'right-shoe', 'left-shoe',
)  # fmt: skip


class Vip:
    """video(index): LabelledFrames with a class for each pixel; other values, such as 255, are not classes.

    UserError if the list is missing or empty, or if frames or classes of a video in it are missing.
    """

    def __init__(self, root, split='val'):
        table = ORIGIN.find(root, 'list of videos', f'lists/{checked_split(split, SPLITS)}.txt')
        self.items = [
            (
                name,
                *paired(
                    ORIGIN,
                    list_pictures(ORIGIN, root, f'Images/{name}', 'frames of a video'),
                    list_pictures(ORIGIN, root, f'Annotations/Category_ids/{name}', 'classes of a video'),
                ),
            )
            for name in ORIGIN.names(table, 'video')
        ]

    def __len__(self) -> int:
        return len(self.items)

    def video(self, index: int) -> LabelledFrames:
        """The video; its files are read when they are needed."""
        return masked_video(*self.items[index])
