import numpy as np

from rvm_jax.probing.datasets.reading.colors import gray, jitter, random_colors

SAME = {'brightness': 0, 'contrast': 1, 'saturation': 1, 'hue': 0}
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 12, 10, 3), dtype=np.uint8)


def test_no_change_is_no_change():
    np.testing.assert_allclose(jitter(FRAMES, **SAME).astype(int), FRAMES, atol=1)


def test_each_change_is_what_it_says():
    red = np.zeros((1, 2, 2, 3), np.uint8)
    red[..., 0] = 200
    np.testing.assert_allclose(jitter(red, **SAME | {'hue': 1 / 3})[0, 0, 0], (0, 200, 0), atol=1)
    np.testing.assert_allclose(jitter(red, **SAME | {'saturation': 0})[0, 0, 0], (200, 200, 200), atol=1)
    np.testing.assert_allclose(jitter(red, **SAME | {'brightness': 0.1})[0, 0, 0], (225, 25, 25), atol=2)
    spread = [jitter(FRAMES, **SAME | {'contrast': contrast}).std() for contrast in (0.6, 1)]
    np.testing.assert_allclose(spread[0] / spread[1], 0.6, atol=0.03)


def test_all_frames_change_alike():
    still = np.repeat(FRAMES[:1], 4, 0)
    for seed in range(10):
        changed = random_colors(np.random.default_rng(seed), still)
        assert (changed == changed[:1]).all()


def test_draws_differ_and_some_lose_their_color():
    draws = [random_colors(np.random.default_rng(seed), FRAMES) for seed in range(60)]
    unchanged = sum(np.array_equal(draw, FRAMES) for draw in draws)
    without_color = sum((draw[..., 0] == draw[..., 1]).all() for draw in draws)
    assert 2 <= unchanged <= 20 and 4 <= without_color <= 24
    np.testing.assert_array_equal(draws[5], random_colors(np.random.default_rng(5), FRAMES))


def test_gray_is_of_the_same_shape():
    assert gray(FRAMES).shape == FRAMES.shape and gray(FRAMES).dtype == np.uint8
