import numpy as np
import pytest

from rvm_jax.errors import DataError, UserError
from rvm_jax.probing.datasets.reading.tfrecord import frame_record, message_classes
from rvm_jax.probing.datasets.waymo import CAMERAS, FRAME, Waymo

KINDS = {
    'video_THWC': ((4, 32, 32, 3), np.uint8),
    'boxes_QT4': ((3, 4, 4), np.float32),
    'known_QT': ((3, 4), bool),
}
HOW = {'num_frames': 4, 'image_size': 32, 'max_boxes': 3}
WIDTH, HEIGHT, SIZE = 96, 64, 12
X = 0.3 + 0.02 * np.arange(14)
# The fields of a frame that are read, and one that is not.
MORE = {**FRAME, 'Frame': {**FRAME['Frame'], 'timestamp_micros': (2, 'int64'), 'lasers': (5, 'repeated bytes')}}


def add_label(labels, name, x, y, width, height):
    box = labels.add(id=name).box
    box.center_x, box.center_y, box.length, box.width = x * WIDTH, y * HEIGHT, width, height


@pytest.fixture
def root(tmp_path, draw_marker, encode_image):
    """14 frames: the marker's box, one that is gone from frame 6 on, one too small, one that comes later."""
    frame_class = message_classes('rvm_jax.tests.waymo', MORE)['Frame']
    records = []
    for i, x in enumerate(X):
        frame = frame_class(timestamp_micros=100_000 * i, lasers=[b'\0' * 100])
        frame.images.add(name=2, image=encode_image(draw_marker(0.5, 0.5, 40, 30), '.jpg'))
        frame.images.add(name=1, image=encode_image(draw_marker(x, 0.5, WIDTH, HEIGHT, SIZE), '.jpg'))
        frame.camera_labels.add(name=2)
        labels = frame.camera_labels.add(name=1).labels
        add_label(labels, 'small', 0.5, 0.5, 3, 3)
        if i < 6:
            add_label(labels, 'gone', 0.5, 0.2, 30, 10)
        if i > 1:
            add_label(labels, 'late', 0.5, 0.5, 30, 30)
        add_label(labels, 'marker', x, 0.5, SIZE, SIZE)
        records.append(frame_record(frame.SerializeToString()))
    (tmp_path / 'validation').mkdir()
    (tmp_path / 'validation' / 'segment-1_with_camera_labels.tfrecord').write_bytes(b''.join(records))
    return tmp_path


def test_fields_are_those_of_the_format():
    from tensorflow_datasets.proto import waymo_dataset_generated_pb2 as waymo

    messages = {name: getattr(waymo, name) for name in ('Frame', 'CameraImage', 'CameraLabels', 'Label')}
    messages['Box'] = waymo.Label.Box
    for name, message in messages.items():
        for field, (number, _) in FRAME[name].items():
            assert message.DESCRIPTOR.fields_by_name[field].number == number
    assert {name: waymo.CameraName.Name.Value(name) for name in CAMERAS} == CAMERAS


def test_boxes_are_around_the_marker(root, check_source, find_marker):
    example, draws = check_source(Waymo(root, 'val', crop_area=(0.5, 1.0), min_area=0.01, **HOW), 0, KINDS)
    tried = 0
    for found in (example, *draws):
        for frame_HWC, boxes_Q4 in zip(found['video_THWC'], found['boxes_QT4'].swapaxes(0, 1), strict=True):
            x, y = find_marker(frame_HWC)
            if 0.25 < x < 0.75 and 0.3 < y < 0.7:
                centers_Q2 = (boxes_Q4[:, :2] + boxes_Q4[:, 2:]) / 2
                assert abs(centers_Q2 - (x, y)).max(-1).min() < 0.03
                tried += 1
    assert tried > 8


def test_objects_are_those_of_the_first_frame_large_ones_first(root):
    example = Waymo(root, 'val', **HOW).example(0)  # frames 3, 5, 7, 9 of 14
    assert example['known_QT'].tolist() == [[True] * 4, [True, True, False, False], [True] * 4]  # late, gone, marker
    half, center = SIZE / 2 / HEIGHT, 0.5 + (X[3] - 0.5) * WIDTH / HEIGHT
    np.testing.assert_allclose(
        example['boxes_QT4'][2, 0], (center - half, 0.5 - half, center + half, 0.5 + half), atol=1e-5
    )
    wide = (0.5 - 15 / HEIGHT, 0.2 - 5 / HEIGHT, 0.5 + 15 / HEIGHT, 0.2 + 5 / HEIGHT)
    np.testing.assert_allclose(example['boxes_QT4'][1], [wide, wide, [0] * 4, [0] * 4], atol=1e-5)


def test_small_boxes_are_discarded_and_the_rest_is_padding(root):
    known_QT = Waymo(root, 'val', min_area=0.05, **HOW).example(0)['known_QT']
    assert known_QT.any(1).tolist() == [True, True, False]
    assert not Waymo(root, 'val', min_area=0.9, **HOW).example(0)['known_QT'].any()
    assert Waymo(root, 'val', **{**HOW, 'max_boxes': 1}).example(0)['known_QT'].shape == (1, 4)


def test_the_camera_can_be_chosen(root):
    assert not Waymo(root, 'val', camera='FRONT_LEFT', **HOW).example(0)['known_QT'].any()
    with pytest.raises(DataError, match='does not have a picture of this camera'):
        Waymo(root, 'val', camera='SIDE_LEFT', **HOW).example(0)
    with pytest.raises(UserError, match="camera 'REAR'"):
        Waymo(root, 'val', camera='REAR')


def test_what_is_missing_or_damaged_is_named(root):
    with pytest.raises(UserError, match=r'training: is not there .*waymo\.com/open'):
        Waymo(root, 'train', **HOW)
    (root / 'training').mkdir()
    with pytest.raises(UserError, match=r'training/\*\.tfrecord: is not there'):
        Waymo(root, 'train', **HOW)
    (root / 'training' / 'a.tfrecord').write_bytes(frame_record(b'no frame') * 10)
    with pytest.raises(DataError, match=r'a\.tfrecord: is damaged'):
        Waymo(root, 'train', **HOW).example(0)
