import pathlib

import numpy as np
import pytest

from rvm_jax.probing.metrics import segmentation

GOLDEN = pathlib.Path(__file__).parents[2] / 'goldens' / 'metrics.npz'


@pytest.fixture(scope='module')
def golden():
    with np.load(GOLDEN, allow_pickle=False) as file:
        return dict(file)


def rectangle(top, bottom, left, right, height=480, width=854):
    mask = np.zeros((1, height, width), bool)
    mask[0, top:bottom, left:right] = True
    return mask


def test_j_and_f_equal_the_official_numbers(golden):
    for label in (1, 2):
        masks = golden['davis_pred'] == label, golden['davis_gt'] == label
        np.testing.assert_allclose(
            segmentation.region_similarity(*masks), golden['davis_J'][label - 1], rtol=0, atol=1e-6
        )
        np.testing.assert_allclose(
            segmentation.boundary_accuracy(*masks), golden['davis_F'][label - 1], rtol=0, atol=1e-6
        )


def test_mean_iou_equals_the_official_number(golden):
    frames = zip(golden['vip_pred'], golden['vip_gt'], strict=True)
    summed = sum(segmentation.confusion(predicted, truth, 20) for predicted, truth in frames)
    assert segmentation.mean_iou(summed) == pytest.approx(float(golden['vip_miou']), abs=1e-6)


@pytest.mark.parametrize(
    ('predicted', 'j', 'f'), [((104, 214, 158, 318), 0.718684, 0.507297), ((120, 240, 150, 340), 0.465116, 0.203571)]
)
def test_rectangles_at_the_size_of_davis(predicted, j, f):
    masks = rectangle(*predicted), rectangle(100, 200, 150, 300)
    assert segmentation.region_similarity(*masks) == pytest.approx([j], abs=1e-6)
    assert segmentation.boundary_accuracy(*masks) == pytest.approx([f], abs=1e-6)


def test_empty_masks():
    some, none = rectangle(2, 8, 2, 8, 20, 20), np.zeros((1, 20, 20), bool)
    for pair, expected in (((none, none), 1), ((some, none), 0), ((none, some), 0), ((some, some), 1)):
        assert segmentation.region_similarity(*pair) == [expected]
        assert segmentation.boundary_accuracy(*pair) == [expected]


def test_a_mask_has_no_boundary_along_the_frame():
    whole, none = np.ones((1, 20, 20), bool), np.zeros((1, 20, 20), bool)
    assert segmentation.boundary_accuracy(whole, none) == [1]
    assert segmentation.region_similarity(whole, none) == [0]


def test_a_boundary_may_be_off_by_the_tolerance_and_no_more():
    truth = rectangle(50, 100, 50, 100)  # at 480 x 854 the tolerance is 8 pixels
    assert segmentation.boundary_accuracy(rectangle(58, 100, 50, 100), truth) == [1]
    assert segmentation.boundary_accuracy(rectangle(59, 100, 50, 100), truth) < 1


def test_objects_count_alike_and_the_first_and_last_frame_do_not():
    truth = np.zeros((4, 30, 30), np.uint8)
    truth[:, 2:10, 2:10], truth[:, 15:25, 15:25] = 1, 2
    predicted = truth.copy()
    predicted[[0, 3]] = 0
    predicted[1:3][truth[1:3] == 2] = 0
    j, f = segmentation.object_means(*segmentation.frame_scores(predicted, truth))
    assert j.tolist() == [1, 0] and f.tolist() == [1, 0]
    one = np.where(truth == 1, truth, 0)
    scores = segmentation.davis_scores([(predicted, truth), (one, one), (one[:2], one[:2])])
    assert scores == pytest.approx({'J': 2 / 3, 'F': 2 / 3, 'J&F': 2 / 3})


def test_an_object_that_comes_later_counts_from_the_start():
    truth = np.zeros((4, 30, 30), np.uint8)
    truth[3, 2:10, 2:10] = 2
    j, _ = segmentation.object_means(*segmentation.frame_scores(np.zeros_like(truth), truth))
    assert j.tolist() == [1, 1]  # both are rightly absent from the frames that count


def test_a_video_without_objects_has_no_score():
    nothing = np.zeros((4, 30, 30), np.uint8)
    assert segmentation.frame_scores(nothing, nothing)[0].shape == (4, 0)
    assert np.isnan(segmentation.davis_scores([(nothing, nothing)])['J&F'])


def test_no_video_gives_nan():
    assert all(np.isnan(value) for value in segmentation.davis_scores([]).values())


def test_confusion_leaves_out_what_is_no_class():
    truth, predicted = [[0, 1, 1, 255], [2, 2, 0, 0]], [[0, 1, 0, 3], [2, 0, 0, 0]]
    counts = segmentation.confusion(predicted, truth, 20)
    assert counts.sum() == 7 and counts[1, 0] == 1 and counts[0, 1] == 0
    assert segmentation.mean_iou(counts) == pytest.approx(0.533333, abs=1e-6)


def test_a_class_that_is_only_predicted_counts_as_missed():
    assert segmentation.mean_iou(segmentation.confusion([1, 0], [0, 0], 3)) == pytest.approx(0.25)


def test_no_pixel_gives_nan():
    assert np.isnan(segmentation.mean_iou(segmentation.confusion([255], [255], 3)))


def test_a_prediction_that_is_no_class_is_an_error():
    with pytest.raises(ValueError, match='not in 0 to 2'):
        segmentation.confusion([3], [0], 3)
