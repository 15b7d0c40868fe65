import numpy as np
import pytest

from rvm_jax.errors import DataError, UserError
from rvm_jax.probing.datasets.movi_e import MoviE, Scene
from rvm_jax.probing.datasets.reading.tfrecord import frame_record
from rvm_jax.probing.datasets.reading.transforms import rotations

SIZE, NUM_FRAMES, FOCAL, SENSOR, NEAR, FAR = 96, 8, 35.0, 32.0, 1.0, 20.0
HOW = {'num_frames': 4, 'image_size': SIZE, 'num_tracks': 20}
KINDS = {
    'video_THWC': ((4, SIZE, SIZE, 3), np.uint8),
    'queries_Q3': ((20, 3), np.float32),
    'tracks_QT2': ((20, 4, 2), np.float32),
    'visible_QT': ((20, 4), bool),
    'in_scene_QT': ((20, 4), bool),
    'valid_Q': ((20,), bool),
}
FOLDER = 'movi_e/256x256/1.0.0'


def turn(axis, angle):
    return np.append(np.cos(angle / 2), np.sin(angle / 2) * np.eye(3)[axis])


CAMERA = [(np.array([0.1 * i, 0, 5]), turn(1, 0.02 * i)) for i in range(NUM_FRAMES)]  # looks down and turns
CARD = [(np.array([-0.8 + 0.25 * i, 0.2, 1.5]), turn(2, 0.1 * i)) for i in range(NUM_FRAMES)]  # slides above the floor


def render(i):
    """(picture, distances, segments) of a floor at z = 0 and a card above it; colors are places on their surface."""
    y, x = (np.mgrid[:SIZE, :SIZE] + 0.5) / SIZE - 0.5
    position, quaternion = CAMERA[i]
    rays = np.stack([x, -y, np.full_like(x, -FOCAL / SENSOR)], -1) @ rotations(quaternion).T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    floor_t, card_t = -position[2] / rays[..., 2], (CARD[i][0][2] - position[2]) / rays[..., 2]
    floor, card = position + floor_t[..., None] * rays, position + card_t[..., None] * rays
    card = (card - CARD[i][0]) @ rotations(CARD[i][1])
    on_card = (abs(card[..., :2]) < 0.7).all(-1)
    color = np.where(
        on_card[..., None],
        np.stack([card[..., 0] * 120 + 128, card[..., 1] * 120 + 128, np.full_like(x, 250)], -1),
        np.stack([floor[..., 0] * 25 + 128, floor[..., 1] * 25 + 128, np.full_like(x, 20)], -1),
    )
    return color.clip(0, 255).astype(np.uint8), np.where(on_card, card_t, floor_t), on_card.astype(np.uint8)


@pytest.fixture(scope='module')
def record(encode_image):
    """tf.train.Example as TFDS writes it, by its own messages."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    feature = example.features.feature
    pictures, distances, segments = zip(*map(render, range(NUM_FRAMES)), strict=True)
    feature['video'].bytes_list.value.extend(map(encode_image, pictures))
    feature['segmentations'].bytes_list.value.extend(map(encode_image, segments))
    depth = [np.rint((distance - NEAR) / (FAR - NEAR) * 65535).astype(np.uint16) for distance in distances]
    feature['depth'].bytes_list.value.extend(map(encode_image, depth))
    feature['forward_flow'].int64_list.value.extend([32768] * 50)
    floats = {
        'metadata/depth_range': [NEAR, FAR],
        'camera/focal_length': [FOCAL],
        'camera/sensor_width': [SENSOR],
        'camera/positions': np.ravel([position for position, _ in CAMERA]),
        'camera/quaternions': np.ravel([quaternion for _, quaternion in CAMERA]),
        'instances/positions': np.ravel([position for position, _ in CARD]),
        'instances/quaternions': np.ravel([quaternion for _, quaternion in CARD]),
    }
    for name, values in floats.items():
        feature[name].float_list.value.extend(values)
    return example


@pytest.fixture
def root(tmp_path, record):
    """Two files of one example each."""
    folder = tmp_path / FOLDER
    folder.mkdir(parents=True)
    for i in range(2):
        path = folder / f'movi_e-train.tfrecord-{i:05d}-of-00002'
        path.write_bytes(frame_record(record.SerializeToString()))
    return tmp_path


def colors_at(frame_HWC, points_Q2):
    height, width = frame_HWC.shape[:2]
    columns, rows = (points_Q2 * (width, height)).astype(int).clip(0, height - 1).T
    return frame_HWC[rows, columns].astype(int)


@pytest.mark.parametrize('seed', [None, 0, 1, 2, 3])
def test_a_visible_point_keeps_its_place_on_its_surface(root, seed):
    source = MoviE(root, 'train', colors=False, **{**HOW, 'num_tracks': 60})
    example = source.example(0, None if seed is None else np.random.default_rng(seed))
    tracks, visible, in_scene = example['tracks_QT2'], example['visible_QT'], example['in_scene_QT']
    np.testing.assert_array_equal(example['valid_Q'], visible[:, 0])
    np.testing.assert_array_equal(example['queries_Q3'], np.insert(tracks[:, 0], 0, 0, axis=1))
    assert not (visible & ~in_scene).any() and visible[example['valid_Q']].mean() > 0.5
    colors = np.stack([colors_at(*pair) for pair in zip(example['video_THWC'], tracks.swapaxes(0, 1), strict=True)], 1)
    is_off = abs(colors - colors[:, :1]).max(-1) > 16
    assert is_off[visible].mean() < 0.1  # on an edge, pixels are of both surfaces
    assert is_off[in_scene & ~visible].mean() > 0.9 if (in_scene & ~visible).any() else seed is not None
    assert abs(tracks - tracks[:, :1]).max() > 0.15


def test_examples_keep_their_promises(root, check_source):
    source = MoviE(root, 'train', **HOW)
    assert len(source) == 2
    example, draws = check_source(source, 1, KINDS)
    assert any((~draw['visible_QT'] & draw['in_scene_QT']).any() for draw in draws)  # the card hides some of the floor
    assert any((~draw['in_scene_QT']).any() for draw in draws)
    assert example['id'] == 'movi_e-train.tfrecord-00001-of-00002:0'


def test_the_card_gets_more_than_its_share_of_pixels(root):
    source = MoviE(root, 'train', colors=False, **HOW)
    shares = []
    for seed in range(5):
        example = source.example(0, np.random.default_rng(seed))
        shares.append((colors_at(example['video_THWC'][0], example['tracks_QT2'][:, 0])[:, 2] > 200).mean())
    card = np.mean([render(i)[2].mean() for i in range(NUM_FRAMES)])
    assert np.mean(shares) > 1.5 * card


def test_depth_is_a_distance(record):
    depth_THW = Scene('a', record.SerializeToString()).depth([5, 0])
    np.testing.assert_allclose(depth_THW, [render(5)[1], render(0)[1]], atol=2e-4)


def test_missing_tracks_are_padding(root):
    example = MoviE(root, 'train', **{**HOW, 'num_tracks': 200}).example(0)
    count = example['valid_Q'].sum()
    assert 20 < count < 100 and not example['valid_Q'][count:].any() and not example['visible_QT'][count:].any()


def test_what_is_missing_is_named(root):
    with pytest.raises(UserError, match=r'validation\.tfrecord.*is not there .*kubric-public'):
        MoviE(root, 'val', **HOW)
    (root / FOLDER / 'movi_e-validation.tfrecord-00000-of-00001').write_bytes(b'')
    with pytest.raises(UserError, match=r'validation.*: does not hold an example'):
        MoviE(root, 'val', **HOW)
    (root / FOLDER / 'movi_e-train.tfrecord-00001-of-00002').unlink()
    with pytest.raises(UserError, match='00001-of-00002: is not there'):
        MoviE(root, 'train', **HOW)
    assert len(MoviE((root / FOLDER).rename(root / 'flat') and write_single(root / 'flat'), 'train', **HOW)) == 1


def write_single(folder):
    path = folder / 'movi_e-train.tfrecord-00000-of-00002'
    path.rename(folder / 'movi_e-train.tfrecord-00000-of-00001')
    return folder


def test_what_is_damaged_is_named(root, record):
    path = root / FOLDER / 'movi_e-train.tfrecord-00000-of-00002'
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    with pytest.raises(DataError, match='00000-of-00002: was cut off'):
        MoviE(root, 'train', **HOW)
    path.write_bytes(frame_record(b'no example'))
    with pytest.raises(DataError, match='00000-of-00002 example 0: is damaged'):
        MoviE(root, 'train', **HOW).example(0)
    del (other := type(record).FromString(record.SerializeToString())).features.feature['depth']
    path.write_bytes(frame_record(other.SerializeToString()))
    with pytest.raises(DataError, match='example 0: does not have depth'):
        MoviE(root, 'train', **HOW).example(0)
