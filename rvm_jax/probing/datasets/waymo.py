"""Waymo Open Dataset: boxes of road users in the cameras of a car (RVM, section 11; 4DS).

root holds training/*.tfrecord and validation/*.tfrecord (Perception v1: a file for each segment of 20 seconds, at 10
frames per second). The packages of Waymo and TensorFlow are not needed.
"""

import functools
import glob
import os
from typing import Any

import numpy as np

from rvm_jax.errors import DataError, UserError
from rvm_jax.probing.datasets.reading.dataset_files import DatasetFiles, checked_split
from rvm_jax.probing.datasets.reading.images import decode_image
from rvm_jax.probing.datasets.reading.tfrecord import message_classes, read_record, record_places
from rvm_jax.probing.datasets.reading.transforms import central_crop, choose_frames, padded, random_crop

ORIGIN = DatasetFiles(
    'Waymo Open Dataset (Perception v1)', 'waymo.com/open', 'training/*.tfrecord and validation/*.tfrecord'
)
SPLITS = {'train': 'training', 'val': 'validation'}
CAMERAS = {'FRONT': 1, 'FRONT_LEFT': 2, 'FRONT_RIGHT': 3, 'SIDE_LEFT': 4, 'SIDE_RIGHT': 5}
FRAME = {  # the fields that are used, of the Frame in dataset.proto and label.proto
    'Frame': {'images': (4, 'repeated CameraImage'), 'camera_labels': (8, 'repeated CameraLabels')},
    'CameraImage': {'name': (1, 'int32'), 'image': (2, 'bytes')},
    'CameraLabels': {'name': (1, 'int32'), 'labels': (2, 'repeated Label')},
    'Label': {'box': (1, 'Box'), 'id': (4, 'string')},
    'Box': {'center_x': (1, 'double'), 'center_y': (2, 'double'), 'width': (4, 'double'), 'length': (5, 'double')},
}


class Waymo:
    """example(index): id, video_THWC, boxes_QT4, known_QT with Q max_boxes: one clip of a segment.

    num_frames frames, stride apart (2 is 5 frames per second): anywhere in training, else the center; the central
    square, or a random crop in training if crop_area is set. Only boxes of the first frame count, and they must cover
    min_area of it. Boxes are cut off at the edges of the crop, and known in frames where some area is left. A clip
    without such a box is all padding. Our choice, because unpublished: camera FRONT; min_area refers to the crop and to
    the box inside it; if there are more than max_boxes, the largest ones; which clip of a segment is evaluated.
    UserError if files are missing; DataError if one is damaged.
    """

    def __init__(
        self, root, split, *, num_frames=16, image_size=256, stride=2, max_boxes=25, min_area=0.005, camera='FRONT',
        crop_area=None,
    ):  # fmt: skip
        folder = ORIGIN.find(root, 'segments', checked_split(split, SPLITS))
        self.items = sorted(glob.glob(os.path.join(glob.escape(folder), '*.tfrecord')))
        if not self.items:
            raise ORIGIN.missing(os.path.join(folder, '*.tfrecord'), 'segments', root)
        if camera not in CAMERAS:
            raise UserError(f'camera {camera!r}', 'is not a camera of this car', f'give one of: {", ".join(CAMERAS)}')
        self._camera = CAMERAS[camera]
        self.num_frames = num_frames
        self._window = {'num_frames': num_frames, 'stride': stride}
        self._image_size, self._crop_area = image_size, crop_area
        self._max_boxes, self._min_area = max_boxes, min_area

    def __len__(self) -> int:
        return len(self.items)

    def example(self, index: int, rng: np.random.Generator | None = None) -> dict[str, Any]:
        """One clip and its boxes."""
        path = self.items[index]
        places = record_places(path)
        chosen = choose_frames(rng, len(places), name=path, **self._window)
        seen = [_read_frame(path, places[i], self._camera) for i in chosen]
        frames = [frame_HWC for frame_HWC, _ in seen]
        size = frames[0].shape[:2]
        if rng is None or self._crop_area is None:
            crop = central_crop(*size)
        else:
            crop = random_crop(rng, *size, area=self._crop_area)
        boxes_QT4, known_QT = _follow(crop, [boxes for _, boxes in seen], self._max_boxes, self._min_area)
        return {
            'id': os.path.splitext(os.path.basename(path))[0],
            'video_THWC': crop.frames(frames, self._image_size),
            'boxes_QT4': padded(boxes_QT4, self._max_boxes),
            'known_QT': padded(known_QT, self._max_boxes),
        }


def _follow(crop, boxes, max_boxes, min_area):
    """(boxes_QT4, known_QT) from [{track: box in [0, 1] of the frame}, ...], one a frame."""
    boxes = [{name: crop.boxes(box_4) for name, box_4 in found.items()} for found in boxes]
    areas = {name: _area(box_4) for name, box_4 in boxes[0].items()}
    names = [name for name in sorted(areas, key=lambda name: (-areas[name], name)) if areas[name] >= min_area]
    names = names[:max_boxes]
    nothing = np.zeros(4, np.float32)
    found = [[frame.get(name, nothing) for frame in boxes] for name in names]
    boxes_QT4 = np.array(found, np.float32).reshape(len(names), len(boxes), 4)
    known_QT = _area(boxes_QT4) > 0
    return boxes_QT4 * known_QT[..., None], known_QT


def _area(boxes_X4):
    return (boxes_X4[..., 2] - boxes_X4[..., 0]) * (boxes_X4[..., 3] - boxes_X4[..., 1])


@functools.cache
def _frame_class():
    return message_classes('rvm_jax.waymo', FRAME)['Frame']


def _read_frame(path, place, camera):
    """(picture HWC, {track: box x0 y0 x1 y1 in [0, 1] of it}) of one camera at one time."""
    from google.protobuf.message import DecodeError

    try:
        frame = _frame_class().FromString(read_record(path, place))
    except DecodeError as error:
        raise DataError(path, f'is damaged ({error})', 'download it again') from error
    images = [image.image for image in frame.images if image.name == camera]
    if not images:
        raise DataError(path, 'does not have a picture of this camera', 'download it again')
    frame_HWC = decode_image(path, images[0])
    height, width = frame_HWC.shape[:2]
    labels = [label for view in frame.camera_labels if view.name == camera for label in view.labels]
    return frame_HWC, {label.id: _box(label.box) / (width, height, width, height) for label in labels}


def _box(box):
    """x0, y0, x1, y1 in pixels; Waymo calls the side along x length, and the side along y width."""
    half_x, half_y = box.length / 2, box.width / 2
    return np.array([box.center_x - half_x, box.center_y - half_y, box.center_x + half_x, box.center_y + half_y])
