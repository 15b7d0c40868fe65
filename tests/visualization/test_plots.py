import numpy as np

from rvm_jax.visualization import plots


def test_smoothing_keeps_a_line_a_line_and_never_leaves_the_data():
    steps = np.arange(0, 1000, 10)
    at, losses = plots.smoothed(steps, 2.0 * steps)
    assert np.allclose(losses, 2.0 * at) and at.min() >= 0 and at.max() <= 990 and len(at) < len(steps)


def test_curve_comes_in_light_and_dark_from_a_single_point_on():
    for dark, corner in [(False, 255), (True, 27)]:
        picture = plots.loss_curve([10], [0.5], held_out=[(10, 0.4)], levels=[('copy', 0.3)], dark=dark)
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture[0, 0, 0] == corner
        assert len(np.unique(picture)) > 10
