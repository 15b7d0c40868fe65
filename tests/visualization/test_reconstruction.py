import numpy as np

from rvm_jax.visualization import canvas, reconstruction


def test_mask_hides_every_patch_that_is_not_visible():
    mask_BFHW = reconstruction.mask_from_visible(np.array([[[0, 5]], [[3, 1]]]), grid=(2, 3), patch_size=4)
    assert mask_BFHW.shape == (2, 1, 8, 12)
    patches = mask_BFHW[:, 0].reshape(2, 2, 4, 3, 4)
    assert (patches == patches[:, :, :1, :, :1]).all()
    expected = [[[0, 1, 1], [1, 1, 0]], [[1, 0, 1], [0, 1, 1]]]
    assert (patches[:, :, 0, :, 0] == np.array(expected, bool)).all()


def test_no_visible_patch_hides_everything():
    assert reconstruction.mask_from_visible(np.zeros((2, 0), int), (2, 2), 8).all()


def test_stages_are_grey_clipped_and_combined():
    target_FHWC = np.full((1, 2, 2, 3), 200, np.uint8)
    pixels_FHWC = np.array([1.7, -0.3, 0.5, 0.25]).reshape(1, 2, 2, 1) * np.ones(3)
    mask_FHW = np.array([[[True, True], [True, False]]])
    stages = reconstruction.stages(target_FHWC, pixels_FHWC, mask_FHW)
    assert list(stages) == ['masked target', 'reconstruction', 'combined', 'truth']
    assert stages['masked target'][0, ..., 0].tolist() == [[128, 128], [128, 200]]
    assert stages['reconstruction'][0, ..., 0].tolist() == [[255, 0], [128, 64]]
    assert stages['combined'][0, ..., 0].tolist() == [[255, 0], [128, 200]]
    assert all(frames.dtype == np.uint8 for frames in stages.values())


def test_panel_shows_the_enlarged_truth_in_its_last_row():
    rng = np.random.default_rng(0)
    source, target = (
        rng.integers(0, 256, (1, 4, 48, 48, 3), np.uint8),
        rng.integers(0, 256, (1, 4, 48, 48, 3), np.uint8),
    )
    visible = np.tile([1, 2, 3], (1, 4, 1))
    picture = reconstruction.panel(source, target, rng.random(target.shape), visible, 8, np.array([[4, 5, 6, 7]]))
    last = canvas.enlarge(target[0, -1], 2)
    assert (picture[-canvas.MARGIN - 96 : -canvas.MARGIN, -canvas.MARGIN - 96 : -canvas.MARGIN] == last).all()


def test_many_clips_go_on_new_lines_and_stay_narrow():
    clips, frames = 5, np.zeros((5, 4, 48, 48, 3), np.uint8)
    visible = np.zeros((clips, 4, 1), int)
    one = reconstruction.panel(frames[:1], frames[:1], frames[:1] / 1.0, visible[:1], 8)
    many = reconstruction.panel(frames, frames, frames / 1.0, visible, 8, widest=1500)
    assert many.shape[1] <= 1500 + 2 * canvas.MARGIN + canvas.MARGIN
    assert many.shape[0] > 1.8 * one.shape[0]
