import numpy as np
import pytest

from rvm_jax.probing import drawing

VIDEO = np.full((4, 32, 48, 3), 90, np.uint8)


def rows(prediction, example, **options):
    """The picture's three rows of frames, cut from below, each 128 pixels high."""
    drawn = drawing.picture(VIDEO, prediction, example, **options)
    assert drawn.dtype == np.uint8 and drawn.ndim == 3
    return drawn


def test_only_known_boxes_are_drawn():
    boxes_QT4 = np.tile(np.array([0.25, 0.25, 0.75, 0.75], np.float32), (1, 4, 1))
    known, unknown = (
        rows({'boxes_QT4': boxes_QT4}, {'boxes_QT4': boxes_QT4, 'known_QT': np.full((1, 4), flag)}) for flag in (1, 0)
    )
    blue = np.array([0x1F, 0x77, 0xB4])
    assert (known == blue).all(-1).any() and not (unknown == blue).all(-1).any()


def test_points_that_are_hidden_are_circles():
    tracks_QT2 = np.full((1, 4, 2), 0.5, np.float32)
    seen, hidden = (
        rows(
            {'tracks_QT2': tracks_QT2, 'visible_QT': np.full((1, 4), flag)},
            {'tracks_QT2': tracks_QT2, 'visible_QT': np.full((1, 4), flag), 'valid_Q': np.array([True])},
        )
        for flag in (True, False)
    )
    filled, hollow = (np.sum(np.abs(drawn - np.array([0x1F, 0x77, 0xB4])).max(-1) < 60) for drawn in (seen, hidden))
    assert filled > 1.5 * hollow > 0


def test_far_is_dark_and_what_was_not_measured_is_black():
    depth_THW = np.ones((4, 32, 48), np.float32)
    depth_THW[:, :, 24:] = 3
    depth_THW[:, :8] = 0
    drawn = rows({'depth_THW': depth_THW}, {'depth_THW': depth_THW})
    assert (drawn == 0).all(-1).any() and (drawn.astype(int).sum(-1) > 600).any()


def test_labels_are_colors_over_the_clip():
    masks_THW = np.zeros((4, 32, 48), np.int8)
    masks_THW[:, 8:16] = 1
    drawn = rows({'patches_Thw': masks_THW[:, ::8, ::8]}, {'masks_THW': masks_THW})
    assert len({tuple(color) for color in drawn.reshape(-1, 3)}) > 3


@pytest.mark.parametrize('classes', [None, ('left', 'right')])
def test_an_answer_is_written_beside_the_clip(classes):
    drawn = rows({'probabilities_K': np.array([0.2, 0.8])}, {'label': np.int32(0)}, classes=classes)
    assert drawn.shape[1] > 4 * 192


def test_a_prediction_without_a_picture_is_not_drawn():
    assert drawing.picture(VIDEO, {'pose_34': np.zeros((3, 4))}, {}) is None


def test_a_class_without_a_name_is_told_by_its_number(monkeypatch):
    said = []
    monkeypatch.setattr(drawing.canvas, 'named_rows', lambda rows: said.extend(name for name, *_ in rows))
    example = {'label': np.int32(1)}
    for best in (1, 3):  # of four classes that the readout has, the data has two
        rows_of = {'probabilities_K': np.eye(4)[best]}
        drawing.picture(VIDEO, rows_of, example, classes=('left', 'right'))
    assert said == ['predicted: right (100%), truth: right', 'predicted: 3 (100%), truth: right']
