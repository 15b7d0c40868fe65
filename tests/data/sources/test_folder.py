import errno
import os

import pytest

from rvm_jax.data.sources.folder import FolderSource
from rvm_jax.errors import Unavailable, UserError
from rvm_jax.storage import files


@pytest.fixture
def folder(tmp_path):
    for name in ('b.mp4', 'a.MOV', 'sub/c.mkv', 'notes.txt', '._b.mp4', 'sub/picture.png'):
        path = tmp_path / 'videos' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 10)
    return tmp_path / 'videos'


def names(source):
    return [os.path.relpath(source[i].name, source.root) for i in range(len(source))]


def test_a_folder_gives_its_videos_sorted_and_nothing_else(folder):
    source = FolderSource(folder)
    assert names(source) == ['a.MOV', 'b.mp4', 'sub/c.mkv']
    assert all(os.path.isfile(source[i].name) for i in range(3))


def test_a_folder_may_be_named_like_a_pattern(tmp_path):
    (tmp_path / 'run[1]' / 'deep').mkdir(parents=True)
    for name in 'a.mp4', 'deep/b.mp4':
        (tmp_path / 'run[1]' / name).touch()
    for end, names in ('', ['a.mp4', 'deep/b.mp4']), ('/*.mp4', ['a.mp4']), ('/**/[ab].mp4', ['a.mp4', 'deep/b.mp4']):
        source = FolderSource(f'{tmp_path}/run[1]{end}')
        assert (source.root, source.names) == (f'{tmp_path}/run[1]', names)


def test_hidden_folders_trash_and_snapshots_are_not_searched(folder, tmp_path):
    hidden = (
        '.Trash-1000/files/x.mp4',
        '.snapshot/daily/b.mp4',
        'sub/.old/x.mp4',
        '#recycle/x.mp4',
        '$RECYCLE.BIN/x.mp4',
    )
    for name in hidden:
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b'x')
    assert names(FolderSource(folder)) == ['a.MOV', 'b.mp4', 'sub/c.mkv']
    assert names(FolderSource(f'{folder}/**/*.mp4')) == ['b.mp4']


def test_what_is_hidden_may_be_named(folder, tmp_path):
    for name in ('.snapshot/daily/b.mp4', '.hidden.mp4', '#recycle/x.mp4'):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b'x')
    assert names(FolderSource(folder / '.snapshot')) == ['daily/b.mp4']
    assert names(FolderSource(folder / '.hidden.mp4')) == ['.hidden.mp4']
    assert names(FolderSource(f'{folder}/.snapshot/*/*.mp4')) == ['daily/b.mp4']
    assert names(FolderSource(f'{folder}/#recycle/*.mp4')) == ['x.mp4']
    (tmp_path / 'list.txt').write_text('videos/.snapshot/daily/b.mp4\n')
    assert names(FolderSource(tmp_path / 'list.txt')) == ['videos/.snapshot/daily/b.mp4']


def test_globs_lists_and_single_files(folder, tmp_path):
    assert names(FolderSource(f'{folder}/*.mp4')) == ['b.mp4']
    assert names(FolderSource(f'{folder}/**/*.m*')) == ['a.MOV', 'b.mp4', 'sub/c.mkv'][1:]
    assert names(FolderSource(folder / 'b.mp4')) == ['b.mp4']
    listing = tmp_path / 'list.txt'
    listing.write_text('# mine\n\nvideos/sub/c.mkv\n  videos/b.mp4  \n/elsewhere/d.mp4\n')
    source = FolderSource(listing)
    assert [source[i].name for i in range(3)] == [f'{folder}/sub/c.mkv', f'{folder}/b.mp4', '/elsewhere/d.mp4']


def test_links_in_a_circle_end_and_dangling_ones_are_kept(folder):
    (folder / 'sub' / 'up').symlink_to(folder)
    (folder / 'lost.mp4').symlink_to(folder / 'nowhere')
    assert names(FolderSource(folder)) == ['a.MOV', 'b.mp4', 'lost.mp4', 'sub/c.mkv']
    assert len(FolderSource(folder).fingerprint()) > 8


@pytest.mark.parametrize(
    'make, reason',
    [
        (lambda p: p / 'nowhere', 'does not exist'),
        (lambda p: p / 'empty', 'found no file at all'),
        (lambda p: p / 'pictures', 'found only 2 .png, 1 .txt'),
        (lambda p: f'{p}/*.mp4', 'found no file'),
        (lambda p: p / 'list.txt', 'is a list without a line'),
        (lambda p: p / 'weights.bin', 'neither a known kind of video nor a text file'),
        (lambda p: '', 'is not set'),
    ],
)
def test_nothing_to_read_is_said_at_once(tmp_path, make, reason):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'pictures').mkdir()
    for name in ('a.png', 'b.png', 'c.txt'):
        (tmp_path / 'pictures' / name).touch()
    (tmp_path / 'list.txt').write_text('# nothing\n')
    (tmp_path / 'weights.bin').write_bytes(b'\0\1\2')
    with pytest.raises(UserError, match=reason):
        FolderSource(make(tmp_path))


def test_fingerprint_follows_content_and_not_place(folder, tmp_path):
    before = FolderSource(folder).fingerprint()
    moved = tmp_path / 'moved'
    folder.rename(moved)
    assert FolderSource(moved).fingerprint() == before
    (moved / 'b.mp4').write_bytes(b'X' + b'b.mp4' * 10)
    changed = FolderSource(moved).fingerprint()
    (moved / 'b.mp4').rename(moved / 'd.mp4')
    assert len({before, changed, FolderSource(moved).fingerprint()}) == 3


def test_a_fifo_in_the_folder_is_not_opened(folder):
    os.mkfifo(folder / 'pipe.mp4')
    assert ['pipe.mp4', -1, 0] in FolderSource(folder).manifest()


def test_a_disk_that_fails_hides_no_video(folder, monkeypatch):
    failures, scandir = [], os.scandir

    def flaky(path):
        if os.fspath(path).endswith('sub') and len(failures) < wanted:
            failures.append(path)
            raise OSError(errno.EIO, 'Input/output error')
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', flaky)
    monkeypatch.setattr(files, 'FIRST_WAIT', 0)
    wanted = 2
    assert names(FolderSource(folder)) == ['a.MOV', 'b.mp4', 'sub/c.mkv']
    assert len(failures) == 2
    wanted = 100
    with pytest.raises(Unavailable, match='videos: does not answer'):
        FolderSource(folder)


@pytest.fixture
def frames(tmp_path):
    """frames(name, count, first): a folder of numbered pictures."""

    def make(name, count=3, first=1):
        folder = tmp_path / 'videos' / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            (folder / f'{number:05}.jpg').write_bytes(b'\xff\xd8' + name.encode() + bytes([number]))
        return folder

    return make


def test_folders_of_numbered_pictures_are_videos(frames, tmp_path):
    for name in ('b', 'a/2', 'a/10', '.hidden'):
        frames(name)
    (tmp_path / 'videos' / 'a' / 'notes.txt').touch()
    (tmp_path / 'videos' / 'plots').mkdir()
    (tmp_path / 'videos' / 'plots' / 'loss.png').touch()
    assert names(FolderSource(tmp_path / 'videos')) == ['a/10', 'a/2', 'b']
    assert names(FolderSource(f'{tmp_path}/videos/*')) == ['b']
    assert names(FolderSource(f'{tmp_path}/videos/**')) == ['a/10', 'a/2', 'b']
    for path in (tmp_path / 'videos' / 'b', f'{tmp_path}/videos/b/'):
        source = FolderSource(path)
        assert (source.root, source.names) == (f'{tmp_path}/videos', ['b'])
    listing = tmp_path / 'list.txt'
    listing.write_text('videos/b\nvideos/a/2/\n')
    assert names(FolderSource(listing)) == ['videos/b', 'videos/a/2']


def test_this_folder_may_be_a_video(frames, tmp_path, monkeypatch):
    monkeypatch.chdir(frames('a'))
    source = FolderSource('.')
    assert (source.root, source.names) == (f'{tmp_path}/videos', ['a'])


def test_thumbnails_beside_videos_are_no_videos(folder, frames, caplog):
    frames('thumbs')
    (folder / '1.jpg').touch()
    (folder / '2.jpg').touch()
    assert names(FolderSource(folder)) == ['a.MOV', 'b.mp4', 'sub/c.mkv']
    assert '1 folder of numbered pictures, such as ' in caplog.text and '/videos/thumbs, is not taken' in caplog.text
    assert names(FolderSource(f'{folder}/*')) == ['a.MOV', 'b.mp4']
    assert names(FolderSource(folder / 'thumbs')) == ['thumbs']  # where a user names it


def test_masks_in_a_folder_of_frames_are_no_video(frames, tmp_path):
    frames('a')
    frames('a/masks')
    assert names(FolderSource(tmp_path / 'videos')) == ['a']


def test_pictures_without_numbers_are_no_video(tmp_path):
    for name in ('cat.jpg', 'dog.jpg'):
        (tmp_path / name).touch()
    with pytest.raises(
        UserError, match=r'holds no video \(found only 2 \.jpg\); as a video, name a folder of pictures'
    ):
        FolderSource(tmp_path)


def test_gifs_are_videos(tmp_path):
    (tmp_path / 'a.gif').touch()
    assert names(FolderSource(tmp_path)) == ['a.gif']


def test_every_change_of_a_frame_folder_is_seen(frames, tmp_path, monkeypatch):
    video = frames('a', count=100)
    before = FolderSource(tmp_path / 'videos').manifest()
    assert before == FolderSource(tmp_path / 'videos').manifest() and before[0][:2] == ['a', 400]

    def is_seen():
        return FolderSource(tmp_path / 'videos').manifest() != before

    changes = [
        lambda: (video / 'fps.txt').write_text('25'),
        lambda: (video / '00001.jpg').write_bytes(b'abcd'),  # one of those whose content counts
        lambda: (video / '00050.jpg').write_bytes(b'abcde'),
        lambda: (video / '00101.jpg').write_bytes(b''),
        lambda: (video / '00050.jpg').rename(video / '00102.jpg'),
    ]
    for change in changes:
        change()
        assert is_seen()
        before = FolderSource(tmp_path / 'videos').manifest()
    opened = []
    monkeypatch.setattr('builtins.open', lambda path, *rest, **how: opened.append(path) or _open(path, *rest, **how))
    FolderSource(tmp_path / 'videos').manifest()
    assert len(opened) <= 10


_open = open


def test_a_folder_that_is_moved_stays_the_same_video(frames, tmp_path):
    frames('a')
    before = FolderSource(tmp_path / 'videos').fingerprint()
    (tmp_path / 'videos').rename(tmp_path / 'elsewhere')
    assert FolderSource(tmp_path / 'elsewhere').fingerprint() == before
