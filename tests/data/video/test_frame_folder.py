"""Folders of numbered pictures as videos: which frame is where, known by the numbers drawn on them."""

import io
import os
import time

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from rvm_jax.data.augment import center_crop_resize
from rvm_jax.data.prepare.encode_video import Settings, prepare_video
from rvm_jax.data.prepare.inputs import Task
from rvm_jax.data.video import frame_folder
from rvm_jax.data.video.decode import iterate_frames, open_video, probe, read_frames
from rvm_jax.data.video.frame_folder import FrameFolder, list_frames, looks_like_frames
from rvm_jax.errors import DataError

SIZE = 80, 64  # width, height


@pytest.fixture
def make(tmp_path, draw_number):
    """make(names, size, rate) -> a folder whose pictures, with these names, show 0, 1, 2, ... in this order."""

    def write(names, size=SIZE, rate=None, folder='video'):
        path = tmp_path / folder
        path.mkdir(exist_ok=True)
        for number, name in enumerate(names):
            assert cv2.imwrite(str(path / name), draw_number(number, *size)[..., ::-1])
        if rate:
            (path / 'fps.txt').write_text(rate)
        return path

    return write


def numbers(frames, read_number):
    return [read_number(frame) for frame in frames]


@pytest.mark.parametrize('kind', ['jpg', 'jpeg', 'png', 'webp', 'JPG'])
def test_frames_are_in_the_order_of_their_numbers(make, read_number, kind):
    path = make([f'frame_{number}.{kind}' for number in range(3, 16)])  # as text, 10 comes before 3
    assert numbers(iterate_frames(path), read_number) == list(range(13))
    assert numbers(read_frames(path, [12, 0, 7, 7], fps=10), read_number) == [12, 0, 7, 7]
    info = probe(path)
    assert (info.num_frames, info.fps, info.duration_s, info.has_times) == (13, None, 0, False)
    assert (info.width, info.height) == SIZE


def test_without_a_rate_a_tick_is_a_frame_at_any_rate(make, read_number):
    path = make([f'{number:06}.png' for number in range(12)])
    for fps in (1, 10, 25, 29.97):
        with open_video(path) as video:
            assert video.count(fps) == 12
            assert numbers(video.stream(fps, 3), read_number) == list(range(3, 12))
            assert numbers(video.pictures([0, 4, 11], fps).decode(), read_number) == [0, 4, 11]


@pytest.mark.parametrize('text', ['20', '20.0\n', '40/2', '\ufeff20'])
def test_with_a_rate_frames_are_those_nearest_in_time(make, read_number, text):
    path = make([f'{number:06}.png' for number in range(40)], rate=text)
    assert probe(path).fps == 20 and probe(path).duration_s == 2
    with open_video(path) as video:
        assert video.count(10) == 20 and video.count(20) == 40 and video.count(40) == 80
        assert numbers(video.stream(10), read_number) == list(range(0, 40, 2))
        assert numbers(video.read([0, 1, 2, 3], 40), read_number) == [0, 0, 1, 1]  # of two, the earlier one
        assert numbers(video.read([0, 1, 2, 3], 8), read_number) == [0, 2, 5, 7]


def test_folder_and_video_of_the_same_frames_are_the_same(make, write_video, tmp_path, read_number):
    write_video(tmp_path / 'a.mp4', num_frames=40, fps=25)
    folder = make([f'{number:03}.png' for number in range(40)], rate='25')
    for fps in (7, 10, 25, 30):
        with open_video(tmp_path / 'a.mp4') as file, open_video(folder) as frames:
            assert frames.count(fps) == file.count(fps)
            ticks = np.arange(file.count(fps))
            assert numbers(frames.read(ticks, fps), read_number) == numbers(file.read(ticks, fps), read_number)


def test_one_rate_may_stand_above_many_folders(make, tmp_path):
    path = make(['1.png', '2.png'])
    assert frame_folder.frame_rate(path) is None and not frame_folder.has_rate(path)
    (tmp_path / 'fps.txt').write_text('12.5')
    assert frame_folder.frame_rate(path) == 12.5 and frame_folder.has_rate(path)
    (path / 'fps.txt').write_text('30')
    assert frame_folder.frame_rate(path) == 30


@pytest.mark.parametrize('text', ['', 'ten', '0', '-3', 'nan', '1/0', '1/2/3', 'inf', '25 fps'])
def test_a_rate_that_is_none_is_refused(make, text):
    path = make(['1.png', '2.png'])
    (path / 'fps.txt').write_text(text)
    with pytest.raises(DataError, match=r'has a fps\.txt without a frame rate .*; write frames per second'):
        open_video(path).__enter__()


def test_only_the_frames_of_a_clip_are_read(make, monkeypatch):
    path, read = make([f'{number}.jpg' for number in range(100)]), []
    real = frame_folder._read
    monkeypatch.setattr(frame_folder, '_read', lambda *args, **how: read.append(args[1]) or real(*args, **how))
    with open_video(path) as video:
        video.pictures([5, 50, 51], 10).take([0, 1, 1, 2]).decode()
    assert [os.path.basename(name) for name in read if 'fps' not in name] == ['5.jpg', '50.jpg', '51.jpg']


def test_large_jpegs_are_decoded_small(make):
    path = make(['1.jpg', '2.jpg'], size=(801, 640))
    with open_video(path) as video:
        found = video.pictures([0, 1], 10)
        assert (found.height, found.width) == (640, 801)
        assert [found.decode(shrink)[1].shape[:2] for shrink in (1, 2, 4, 8)] == [
            (640, 801), (320, 401), (160, 201), (80, 101)]  # fmt: skip
        clip = center_crop_resize(found, 64)
        whole = center_crop_resize(frame_folder.encoded('a', [(path / '1.jpg').read_bytes()]), 64)
        assert np.abs(clip[0].astype(int) - whole[0]).max() <= 2
        small = next(video.stream(10, short_side=64))
        assert small.shape == (64, 80, 3)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_jpegs_come_upright_by_their_exif(make, tmp_path, orientation):
    rng = np.random.default_rng(0)
    image = Image.fromarray(cv2.resize(rng.integers(0, 256, (4, 6, 3), np.uint8), (96, 64)))
    exif = Image.Exif()
    exif[frame_folder.ORIENTATION] = orientation
    for number in (1, 2):
        (tmp_path / 'video').mkdir(exist_ok=True)
        image.save(tmp_path / 'video' / f'{number}.jpg', exif=exif, quality=95)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / 'video' / '1.jpg')))
    with open_video(tmp_path / 'video') as video:
        found = video.pictures([0, 1], 10)
        assert (found.height, found.width) == expected.shape[:2]
        assert np.abs(found.decode()[1].astype(int) - expected).max() <= 3
        assert found.decode(2)[0].shape == (expected.shape[0] // 2, expected.shape[1] // 2, 3)
        assert (video.info().height, video.info().width) == expected.shape[:2]


@pytest.mark.parametrize(
    'head', [b'', b'II*\0\xff\xff\xff\xff', b'MM', bytes(8), b'II*\0\x08\0\0\0\xff\xff' + bytes(40)]
)
def test_exif_that_is_damaged_turns_nothing(make, head):
    path = make(['1.jpg'])
    data = (path / '1.jpg').read_bytes()
    segment = b'Exif\0\0' + head
    (path / '1.jpg').write_bytes(data[:2] + b'\xff\xe1' + (len(segment) + 2).to_bytes(2, 'big') + segment + data[2:])
    assert next(iterate_frames(path)).shape == (64, 80, 3)


def test_gray_transparent_and_deep_pictures_come_as_8_bit_rgb(tmp_path):
    (tmp_path / 'a').mkdir()
    for number, values in enumerate([
        np.full((8, 8), 200, np.uint8), np.full((8, 8, 4), 200, np.uint8), np.full((8, 8, 3), 200 * 257, np.uint16),
    ]):  # fmt: skip
        cv2.imwrite(str(tmp_path / 'a' / f'{number}.png'), values)
    frames = read_frames(tmp_path / 'a', [0, 1, 2], 10)
    assert frames.shape == (3, 8, 8, 3) and frames.dtype == np.uint8 and set(np.unique(frames)) == {200}


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (['1.jpg', '2.jpg', '4.jpg'], r'lacks frames \(2\.jpg is followed by 4\.jpg\); add what is missing'),
        (['0.jpg', '5.jpg', '10.jpg'], r'lacks frames \(0\.jpg is followed by 5\.jpg\)'),
        (['a1.jpg', 'b2.jpg', 'a3.jpg'], r'mixes names of frames \(a1\.jpg and b2\.jpg\); give each video a folder'),
        (['1.jpg', '2.png', '3.jpg'], r'mixes names of frames \(1\.jpg and 2\.png\)'),
        (['1.jpg', '2.jpg', '02.jpg'], r'has one number twice \(02\.jpg and 2\.jpg\)'),
        (['1.jpg', '2.jpg', 'cover.jpg'], r'holds more than numbered pictures \(cover\.jpg\)'),
    ],
)
def test_a_folder_that_is_no_video_is_refused_in_a_line(make, names, message):
    with pytest.raises(DataError, match=message):
        probe(make(names))


def test_what_lies_beside_frames(make):
    path = make(['1.jpg', '2.jpg'])
    for name in ('.DS_Store', '._1.jpg', 'Thumbs.db', 'desktop.ini'):
        (path / name).write_bytes(b'x')
    (path / '@eaDir').mkdir()
    assert list_frames(path) == ('1.jpg', '2.jpg')
    (path / 'masks').mkdir()
    with pytest.raises(DataError, match=r'holds more than numbered pictures \(masks\)'):
        list_frames(path)


def test_what_is_meant_as_a_video():
    assert looks_like_frames(['1.jpg']) and looks_like_frames(['a_1.png', 'a_2.png', 'notes.txt'])
    for names in ([], ['cat.jpg'], ['1.txt'], ['1.jpg', 'notes.txt'], ['1.jpg', 'a', 'b'], ['.1.jpg']):
        assert not looks_like_frames(names)


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(DataError, match='is a folder without numbered pictures'):
        probe(tmp_path)


@pytest.mark.parametrize('kind', ['jpg', 'png', 'webp'])
def test_a_damaged_frame_spoils_the_clips_that_need_it(make, read_number, kind):
    path = make([f'{number}.{kind}' for number in range(6)])
    data = (path / f'3.{kind}').read_bytes()
    for spoilt in (data[: len(data) // 2], b'', b'<!doctype html>', data[:20]):
        (path / f'3.{kind}').write_bytes(spoilt)
        assert numbers(read_frames(path, [1, 2, 4], 10), read_number) == [1, 2, 4]
        with pytest.raises(
            DataError, match=rf'is damaged \(3\.{kind} holds .*no picture|is damaged \(3\.{kind} holds a'
        ):
            read_frames(path, [2, 3], 10)


def test_frames_of_another_size_spoil_the_clips_that_need_them(make, draw_number):
    path = make([f'{number}.png' for number in range(4)])
    cv2.imwrite(str(path / '2.png'), draw_number(2, 64, 64))
    assert len(read_frames(path, [0, 1, 3], 10)) == 3
    with pytest.raises(DataError, match=r'changes its size between frames \(2\.png is not 80 x 64 as 1\.png\)'):
        read_frames(path, [1, 2], 10)
    with pytest.raises(DataError, match='changes its size between frames'):
        prepare_video(Task('a', str(path), None, None, 1, 1, 'train'), Settings(min_frames=1), str(path / 'x'))


def test_seconds_of_a_folder_without_a_rate_are_refused(make):
    path = make([f'{number}.png' for number in range(20)])
    with pytest.raises(DataError, match=r'is a folder of frames without fps\.txt, and the list names seconds of it'):
        prepare_video(Task('a', str(path), 1.0, 2.0, 1, 1, 'train'), Settings(), str(path.parent / 'x'))
    (path / 'fps.txt').write_text('10')
    task = Task('a', str(path), 0.5, 1.5, 1, 1, 'train')
    assert prepare_video(task, Settings(), str(path.parent / 'x'))['sequences'][0]['frames'] == 10


def test_a_pipe_or_a_picture_without_end_is_never_read(make, monkeypatch):
    path = make(['1.png', '2.png', '3.png'])
    (path / '2.png').unlink()
    os.mkfifo(path / '2.png')
    with pytest.raises(DataError, match=r'cannot be read \(2\.png: is not a regular file\)'):
        read_frames(path, [1], 10)
    monkeypatch.setattr(frame_folder, 'MOST_BYTES', 10)
    with pytest.raises(DataError, match=r'holds a file that is too large \(1\.png, .* bytes\)'):
        read_frames(path, [0], 10)
    os.unlink(path / '3.png')
    (path / '3.png').symlink_to('nowhere')
    with pytest.raises(DataError, match=r'cannot be read \(3\.png: No such file or directory\)'):
        read_frames(path, [2], 10)


def test_a_picture_of_too_many_pixels_is_refused_by_its_header(make):
    path = make(['1.png', '2.webp'][:1])
    data = bytearray((path / '1.png').read_bytes())
    data[16:24] = (30_000).to_bytes(4, 'big') * 2
    (path / '1.png').write_bytes(data)
    with pytest.raises(DataError, match='has frames of 30000 x 30000 pixels'):
        read_frames(path, [0], 10)


@pytest.mark.parametrize('lossless', [True, False])
@pytest.mark.parametrize('transparent', [True, False])
@pytest.mark.parametrize('size', [(1, 1), (33, 17), (640, 360)])
def test_the_size_of_a_webp_is_that_of_its_pixels(size, lossless, transparent):
    file = io.BytesIO()
    color = (9, 90, 200, 100) if transparent else (9, 90, 200)
    Image.new('RGBA' if transparent else 'RGB', size, color).save(file, 'WEBP', lossless=lossless)
    found = frame_folder.encoded('a', [file.getvalue()])
    assert (found.width, found.height) == size and found.decode()[0].shape == (size[1], size[0], 3)


def test_the_time_limit_counts(make):
    path = make(['1.png', '2.png'])
    video = FrameFolder(path, timeout_s=0.0)
    time.sleep(0.01)
    with pytest.raises(DataError, match='takes too long to decode'):
        video.read([0], 10)


def test_a_tick_behind_the_end_has_no_frame(make):
    with pytest.raises(DataError, match=r'ends before it should \(it has 3 frames\)'):
        read_frames(make(['1.png', '2.png', '3.png']), [3], 10)


def test_a_frame_that_is_added_is_seen(make, draw_number):
    path = make(['1.png', '2.png'])
    assert len(list_frames(path)) == 2
    time.sleep(0.02)  # the clock of a folder is coarse
    cv2.imwrite(str(path / '3.png'), draw_number(3, *SIZE))
    assert len(list_frames(path)) == 3


@pytest.mark.parametrize('side', [3, 63, 200])
def test_a_webp_whose_header_lies_is_refused(side):
    file = io.BytesIO()
    Image.new('RGBA', (64, 64), (9, 90, 200, 100)).save(file, 'WEBP')
    data = bytearray(file.getvalue())
    assert data[12:16] == b'VP8X'
    data[24:30] = (side - 1).to_bytes(3, 'little') * 2
    found = frame_folder.encoded('a', [bytes(data)])
    assert found.height == side
    with pytest.raises(DataError, match=r'cannot be decoded|of another size than its header says'):
        found.decode()


@pytest.mark.parametrize('text', ['1e-300', '0.00001', '1/1000000'])
def test_a_rate_that_makes_days_of_a_few_frames_is_refused(make, text):
    with pytest.raises(DataError, match=r'lasts .* s by its fps\.txt, and no video is longer than 48 hours'):
        probe(make(['1.png', '2.png'], rate=text))


def test_any_other_rate_gives_ticks(make, read_number):
    path = make([f'{number}.png' for number in range(5)], rate='1e300')
    with open_video(path) as video:
        assert video.count(10) == 1 and read_number(video.read([0], 10)[0]) == 0
