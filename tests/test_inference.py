import tracemalloc
import zipfile

import numpy as np
import pytest

from rvm_jax import inference
from rvm_jax.errors import UserError


class RunningMean:
    """A stand-in model in numpy: each token's feature is the mean of all frames so far, so order and state matter."""

    def __init__(self, width=4, window=None):
        self.width, self.window, self.lengths = width, window, []

    def encode(self, frames_BTHWC, state=None):
        self.lengths.append(frames_BTHWC.shape[1])
        seen, total = state or (0, 0.0)
        features = []
        for frame in np.moveaxis(frames_BTHWC, 1, 0).astype(np.float32):
            seen, total = seen + 1, total + frame[:, ::8, ::8, 0].reshape(len(frame), -1, 1)
            features.append(np.repeat(total / seen, self.width, axis=-1))
        return np.stack(features, axis=1), (seen, total)


def noise(num_frames, size=16):
    return np.random.default_rng(0).integers(0, 256, (num_frames, size, size, 3), np.uint8)


@pytest.mark.parametrize('num_frames', [1, 3, 8, 19])
def test_a_stream_equals_one_shot(num_frames):
    frames_THWC = noise(num_frames)
    pieces = list(inference.encode_stream(RunningMean(), iter(frames_THWC), chunk=4))
    expected, _ = RunningMean().encode(frames_THWC[None])
    np.testing.assert_allclose(np.concatenate(pieces), expected[0], rtol=1e-6)


def test_only_two_lengths_are_ever_encoded():
    model = RunningMean()
    assert sum(len(piece) for piece in inference.encode_stream(model, noise(19), chunk=4)) == 19
    assert model.lengths == [4, 4, 4, 4, 1, 1, 1]


def test_a_model_that_does_not_stream_sees_training_windows():
    model = RunningMean(window=3)
    assert sum(len(piece) for piece in inference.encode_stream(model, noise(8), chunk=4)) == 8
    assert model.lengths == [3, 3, 2]


def test_an_empty_stream_gives_nothing():
    assert list(inference.encode_stream(RunningMean(), [])) == []


def test_memory_does_not_grow_with_the_length(tmp_path):
    def peak(num_frames):
        frame = noise(1, size=32)[0]
        chunks = inference.encode_stream(RunningMean(width=256), (frame.copy() for _ in range(num_frames)))
        tracemalloc.start()
        inference.write_features(tmp_path / f'{num_frames}.npz', chunks, grid=(4, 4), fps=1)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    whole = 600 * 16 * 256 * 4
    peak(32)
    short, long = peak(200), peak(600)
    assert long < whole / 2 and long < short + whole / 50


def test_the_file_reads_back_as_plain_arrays(tmp_path):
    chunks = np.random.default_rng(0).normal(size=(5, 2, 3, 4)).astype(np.float32)
    count = inference.write_features(tmp_path / 'a.npz', iter([*chunks, chunks[0, :1]]), grid=(1, 2), fps=29.97)
    assert count == 11
    with np.load(tmp_path / 'a.npz', allow_pickle=False) as file:
        assert set(file) == {'features', 'grid', 'fps'}
        assert file['features'].dtype == np.float32
        assert (file['features'] == np.concatenate([*chunks, chunks[0, :1]])).all()
        assert file['grid'].tolist() == [1, 2] and file['fps'] == 29.97
    assert zipfile.ZipFile(tmp_path / 'a.npz').testzip() is None


def test_a_failure_halfway_leaves_the_old_file_and_nothing_else(tmp_path):
    def broken():
        yield np.zeros((2, 1, 1), np.float32)
        raise RuntimeError('decoder died')

    (tmp_path / 'a.npz').write_bytes(b'old')
    with pytest.raises(RuntimeError):
        inference.write_features(tmp_path / 'a.npz', broken(), grid=(1, 1), fps=1)
    with pytest.raises(ValueError, match='no features'):
        inference.write_features(tmp_path / 'a.npz', [], grid=(1, 1), fps=1)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [('a.npz', b'old')]


def test_somebody_who_reads_the_old_file_keeps_it_whole(tmp_path):
    (tmp_path / 'a.npz').write_bytes(b'old')
    with open(tmp_path / 'a.npz', 'rb') as reader:
        inference.write_features(tmp_path / 'a.npz', [np.zeros((1, 1, 1), np.float32)], grid=(1, 1), fps=1)
        assert reader.read() == b'old'


@pytest.mark.parametrize(
    ('given', 'short_side', 'patch_size', 'fitted'),
    [
        ((90, 160), 48, 8, (48, 80)),  # 48 x 85.3
        ((160, 90), 48, 8, (80, 48)),
        ((48, 48), 48, 8, (48, 48)),
        ((20, 30), 40, 16, (32, 48)),  # 40 x 60
    ],
)
def test_frames_keep_their_aspect_and_are_cut_to_whole_patches(given, short_side, patch_size, fitted):
    frame = np.zeros((*given, 3), np.uint8)
    assert inference.fit(frame, short_side, patch_size).shape == (*fitted, 3)
    whole = inference.working_size(*given, short_side=short_side, patch_size=patch_size)
    assert tuple(side // patch_size * patch_size for side in whole) == fitted


def test_what_is_cut_off_is_shared_between_both_ends():
    frame = np.arange(20, dtype=np.uint8)[None, :, None].repeat(8, 0).repeat(3, 2)
    assert inference.fit(frame, 8, 8)[0, :, 0].tolist() == list(range(2, 18))


def test_less_than_a_patch_is_a_kind_error():
    with pytest.raises(UserError, match='at least one patch of 16 pixels'):
        inference.fit(np.zeros((90, 160, 3), np.uint8), 15, 16)


def test_patch_grid_drops_prefix_tokens_and_is_row_major():
    features_TMD = np.arange(2 * 7 * 1).reshape(2, 7, 1)
    grid = inference.patch_grid(features_TMD, (2, 3), num_prefix_tokens=1)
    assert grid[0, :, :, 0].tolist() == [[1, 2, 3], [4, 5, 6]]


class WithPlaces(RunningMean):
    """Features that also say where their patch is, up to 100 times as loud."""

    patch_size, num_prefix_tokens = 8, 0

    def __init__(self, loud):
        super().__init__()
        self.loud = loud

    def encode(self, frames_BTHWC, state=None):
        features_BTMD, state = super().encode(frames_BTHWC, state)
        return features_BTMD + self.loud * np.arange(features_BTMD.shape[2])[:, None], state


def test_what_features_owe_to_their_place_is_found():
    frames_THWC = np.repeat(noise(1, size=64), 12, axis=0)  # nothing moves: the mean over time is of no use
    plain_ThwD = inference.video_grid(WithPlaces(0), frames_THWC, (64, 64))
    for loud, least, most in ((100, 0.95, 1.0), (0, 0.0, 0.05)):
        model = WithPlaces(loud)
        features_ThwD = inference.video_grid(model, frames_THWC, (64, 64))
        position_hwD = inference.position_of(model, frames_THWC)
        assert position_hwD.shape == (8, 8, 4)
        assert least <= inference.share_of_position(features_ThwD, position_hwD) <= most
        left_ThwD = features_ThwD - position_hwD
        assert np.corrcoef(left_ThwD.ravel(), plain_ThwD.ravel())[0, 1] > 0.9
