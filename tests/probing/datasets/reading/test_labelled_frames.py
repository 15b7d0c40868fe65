"""DAVIS, VIP and JHMDB, written as tiny stand-ins of their layouts."""

import struct
import zlib

import numpy as np
import pytest
import scipy.io
from PIL import Image

from rvm_jax.errors import DataError, UserError
from rvm_jax.probing.datasets.davis import Davis
from rvm_jax.probing.datasets.jhmdb import Jhmdb
from rvm_jax.probing.datasets.reading.labelled_frames import read_labels
from rvm_jax.probing.datasets.vip import Vip
from rvm_jax.terminal import log_to_terminal

HEIGHT, WIDTH, FRAMES = 48, 64, 4
MASK = np.zeros((HEIGHT, WIDTH), np.uint8)
MASK[8:24, 8:40], MASK[30:40, 30:60] = 1, 2
POSE = np.stack([np.linspace(5, 55, 15), np.linspace(40, 8, 15)], axis=-1)


def write_masks(path, shift=0, palette=True):
    """One PNG that holds labels, as a palette or as gray."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.roll(MASK, shift, axis=1))
    if palette:
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    image.save(path)


def write_frames(folder, kind):
    folder.mkdir(parents=True)
    for t in range(FRAMES):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), (200, 10 + 20 * t, 30), np.uint8)).save(folder / f'{t:05d}{kind}')


@pytest.fixture
def davis(tmp_path):
    for name in ('bear', 'goat'):
        write_frames(tmp_path / 'JPEGImages/480p' / name, '.jpg')
        for t in range(FRAMES):
            write_masks(tmp_path / f'Annotations/480p/{name}/{t:05d}.png', shift=t)
    (tmp_path / 'ImageSets/2017').mkdir(parents=True)
    (tmp_path / 'ImageSets/2017/val.txt').write_text('goat\nbear\n\n')
    return tmp_path


@pytest.fixture
def vip(tmp_path):
    write_frames(tmp_path / 'Images/videos1', '.jpg')
    for t in range(FRAMES):
        write_masks(tmp_path / f'Annotations/Category_ids/videos1/{t:05d}.png', shift=t, palette=False)
    (tmp_path / 'lists').mkdir()
    (tmp_path / 'lists/val_videos.txt').write_text('videos1\n')
    return tmp_path


@pytest.fixture
def jhmdb(tmp_path):
    for name, count in (('One_clap', FRAMES), ('Two_clap', FRAMES - 1)):
        write_frames(tmp_path / 'Rename_Images/clap' / name, '.png')
        folder = tmp_path / 'joint_positions/clap' / name
        folder.mkdir(parents=True)
        positions = np.stack([POSE.T + 1 + t for t in range(count)], axis=-1)
        scipy.io.savemat(folder / 'joint_positions.mat', {'pos_img': positions})
    (tmp_path / 'splits').mkdir()
    (tmp_path / 'splits/clap_test_split1.txt').write_text('One_clap.avi 1\nTwo_clap.avi 2\n')
    (tmp_path / 'splits/clap_test_split2.txt').write_text('One_clap.avi 2\nTwo_clap.avi 1\n')
    return tmp_path


def test_davis_gives_frames_and_the_palette_index_of_each_pixel(davis):
    source = Davis(davis)
    assert [source.video(index).id for index in range(len(source))] == ['goat', 'bear']
    video = source.video(0)
    frames = list(video.frames())
    assert len(frames) == video.num_frames == FRAMES
    assert [frame.shape for frame in frames] == [(HEIGHT, WIDTH, 3)] * FRAMES
    assert [int(frame[0, 0, 1]) for frame in frames] == pytest.approx([10, 30, 50, 70], abs=3)
    assert frames[0][0, 0] == pytest.approx([200, 10, 30], abs=3)
    for t in range(FRAMES):
        assert np.array_equal(video.truth(t), np.roll(MASK, t, axis=1))


def test_vip_gives_frames_and_the_gray_value_of_each_pixel(vip):
    video = Vip(vip).video(0)
    assert video.id == 'videos1' and len(list(video.frames())) == video.num_frames == FRAMES
    assert np.array_equal(video.truth(2), np.roll(MASK, 2, axis=1))


def test_jhmdb_gives_the_joints_of_the_first_split_from_0(jhmdb):
    source = Jhmdb(jhmdb)
    assert len(source) == 1
    video = source.video(0)
    assert video.id == 'clap/Two_clap' and video.num_frames == 3 == len(list(video.frames()))
    np.testing.assert_allclose(video.truth(1), POSE + 1)
    assert Jhmdb(jhmdb, 'train').video(0).id == 'clap/One_clap'


@pytest.mark.parametrize(
    ('dataset', 'missing', 'named'),
    [
        ('davis', 'ImageSets/2017/val.txt', 'davischallenge.org'),
        ('davis', 'JPEGImages/480p/bear', 'frames of a video'),
        ('davis', 'Annotations/480p/goat', 'masks of a video'),
        ('vip', 'lists/val_videos.txt', 'sysu-hcp.net'),
        ('vip', 'Images/videos1', 'frames of a video'),
        ('vip', 'Annotations/Category_ids/videos1', 'classes of a video'),
        ('jhmdb', 'splits', 'jhmdb.is.tue.mpg.de'),
        ('jhmdb', 'Rename_Images/clap/Two_clap', 'frames of a video'),
        ('jhmdb', 'joint_positions/clap/Two_clap/joint_positions.mat', 'joints of a video'),
    ],
)
def test_a_missing_part_is_named_with_its_source_and_its_place(request, dataset, missing, named):
    root = request.getfixturevalue(dataset)
    (root / missing).rename(root / 'elsewhere')
    with pytest.raises(UserError) as caught:
        {'davis': Davis, 'vip': Vip, 'jhmdb': Jhmdb}[dataset](root)
    assert str(root / missing) in str(caught.value) and named in str(caught.value)
    assert f'put it into {root} as ' in str(caught.value)


def test_lists_without_the_first_split_are_named(jhmdb):
    (jhmdb / 'splits/clap_test_split1.txt').unlink()
    with pytest.raises(UserError, match=r'\*_test_split1.txt: is not there'):
        Jhmdb(jhmdb)


@pytest.mark.parametrize(
    ('dataset', 'table'),
    [
        ('davis', 'ImageSets/2017/val.txt'),
        ('vip', 'lists/val_videos.txt'),
        ('jhmdb', 'splits/clap_test_split1.txt'),
    ],
)
def test_lists_without_a_video_are_an_error(request, dataset, table):
    root = request.getfixturevalue(dataset)
    (root / table).write_text('')
    with pytest.raises(UserError, match='does not list a video'):
        {'davis': Davis, 'vip': Vip, 'jhmdb': Jhmdb}[dataset](root)


def test_a_split_that_does_not_exist_is_an_error(davis):
    with pytest.raises(UserError, match="split 'test-dev'"):
        Davis(davis, 'test-dev')


def test_more_labels_than_frames_are_an_error(davis, jhmdb):
    (davis / 'JPEGImages/480p/goat/00003.jpg').unlink()
    with pytest.raises(UserError, match=r'does not have a frame for 00003\.png'):
        Davis(davis)
    (jhmdb / 'Rename_Images/clap/Two_clap/00002.png').unlink()
    (jhmdb / 'Rename_Images/clap/Two_clap/00003.png').unlink()
    with pytest.raises(DataError, match='joints of 3 frames for 2 pictures'):
        Jhmdb(jhmdb).video(0)


@pytest.mark.parametrize('lost', [0, 2])
@pytest.mark.parametrize(('dataset', 'folder'), [
    ('davis', 'Annotations/480p/goat'), ('vip', 'Annotations/Category_ids/videos1'),
])  # fmt: skip
def test_a_mask_that_is_missing_is_named_before_anything_runs(request, dataset, folder, lost):
    root = request.getfixturevalue(dataset)
    (root / folder / f'{lost:05d}.png').unlink()
    with pytest.raises(UserError, match=rf'does not have a mask for {lost:05d}\.jpg'):
        {'davis': Davis, 'vip': Vip}[dataset](root)


def test_frames_and_masks_go_together_by_name(davis, caplog):
    frames, masks = davis / 'JPEGImages/480p/goat', davis / 'Annotations/480p/goat'
    for t in range(FRAMES):  # 8, 9, 10, 11 in one folder, as text in another order, and 00008 ... in the other
        (frames / f'{t:05d}.jpg').rename(frames / f'{8 + t}.jpg')
        (masks / f'{t:05d}.png').rename(masks / f'{8 + t:05d}.png')
    video = Davis(davis).video(0)
    assert [int(frame[0, 0, 1]) for frame in video.frames()] == pytest.approx([10, 30, 50, 70], abs=3)
    assert all(np.array_equal(video.truth(t), np.roll(MASK, t, axis=1)) for t in range(FRAMES))
    (masks / '00011.png').unlink()
    log_to_terminal().addHandler(caplog.handler)
    try:
        assert Davis(davis).video(0).num_frames == 3 == len(list(Davis(davis).video(0).frames()))
    finally:
        log_to_terminal().removeHandler(caplog.handler)
    assert 'frames after the last mask are left out (1): 11.jpg' in caplog.text


def test_a_missing_frame_is_named_where_labels_have_no_names(jhmdb):
    (jhmdb / 'Rename_Images/clap/Two_clap/00001.png').unlink()
    with pytest.raises(UserError, match=r'does not have frame 1 \(00002\.png is in its place\)'):
        Jhmdb(jhmdb)


def png(depth, kind, rows):
    """A PNG whose pixels have so many bits; rows are their packed bytes."""
    header = struct.pack('>IIBBBBB', 8 * len(rows[0]) // depth, len(rows), depth, kind, 0, 0, 0)
    chunks = [(b'IHDR', header), (b'PLTE', bytes(range(48)))][: 2 if kind == 3 else 1]
    chunks += [(b'IDAT', zlib.compress(b''.join(b'\0' + row for row in rows))), (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data)) for name, data in chunks
    )


@pytest.mark.parametrize('kind', [0, 3])  # gray, palette
@pytest.mark.parametrize(('depth', 'row', 'labels'), [
    (1, b'\xa1', [1, 0, 1, 0, 0, 0, 0, 1]), (2, b'\x1b', [0, 1, 2, 3]), (4, b'\x3c', [3, 12]),
    (8, b'\x00\x0e', [0, 14]),
])  # fmt: skip
def test_labels_of_any_number_of_bits_are_read_as_they_are(tmp_path, kind, depth, row, labels):
    (tmp_path / 'mask.png').write_bytes(png(depth, kind, [row, row]))
    found = read_labels(str(tmp_path / 'mask.png'))
    assert found.dtype == np.uint8 and found.tolist() == [labels, labels]


def test_labels_that_are_colors_are_an_error(davis):
    Image.new('RGB', (WIDTH, HEIGHT)).save(davis / 'Annotations/480p/goat/00001.png')
    with pytest.raises(DataError, match='holds colors'):
        Davis(davis).video(0).truth(1)


def test_a_damaged_label_is_an_error(davis):
    path = davis / 'Annotations/480p/goat/00001.png'
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match='cannot be decoded'):
        Davis(davis).video(0).truth(1)


def test_a_frame_of_another_size_is_an_error(davis):
    Image.new('RGB', (WIDTH, 50)).save(davis / 'JPEGImages/480p/goat/00002.jpg')
    with pytest.raises(DataError, match='another size'):
        list(Davis(davis).video(0).frames())


@pytest.mark.parametrize('content', [b'no matlab', b''])
def test_joints_that_cannot_be_read_are_an_error(jhmdb, content):
    path = jhmdb / 'joint_positions/clap/Two_clap/joint_positions.mat'
    path.write_bytes(content)
    with pytest.raises(DataError, match='does not have a readable pos_img'):
        Jhmdb(jhmdb).video(0)
    scipy.io.savemat(path, {'other': np.zeros(3)})
    with pytest.raises(DataError, match='pos_img'):
        Jhmdb(jhmdb).video(0)
