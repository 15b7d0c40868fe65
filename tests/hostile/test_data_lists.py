"""Lists of videos, CSV files and names of files that somebody made to do harm."""

import io
import json
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rvm_jax import cli, config
from rvm_jax.data import open_data
from rvm_jax.data.prepare.inputs import list_tasks
from rvm_jax.data.sources.folder import FolderSource
from rvm_jax.data.video.decode import probe
from rvm_jax.errors import DataError, UserError

NAMES = [
    b'line\nbreak.mp4', b'\x1b[2J\x1b]0;title\x07.mp4', b'back\x08\x08\x08space.mp4', b'return\r.mp4', b'\xff\xfe.mp4',
    '\u202etfel.mp4'.encode(), '\u2028line.mp4'.encode(), '\x85next.mp4'.encode(), b'[red]markup.mp4', b'[blink].mp4',
    b'{braces}%s.mp4', b'-rf.mp4', b'..mp4', b'.hidden.mp4', b' .mp4', b'a' * 251 + b'.mp4', b'CON.mp4',
]  # fmt: skip
ANYTHING = st.binary(max_size=300)
ODD_LINES = [
    '../../etc/passwd', '/dev/zero', '/dev/stdin', 'http://127.0.0.1:9/a.mp4', 'a.mp4', '#', ' ', '~', '$HOME',
    'gs://bucket/a', 'file:///etc/passwd', '*', '\ufeff', '\x1b[31m', '..', '/', 'a\0b',
]  # fmt: skip
ODD_CELLS = [
    'path', 'start', 'end', 'a.mp4', '0', '-1', 'nan', 'inf', '1e308', '1e-9', '"', '', '../b.mp4', '\x1b[31m', '0x10',
    '1_0', '٣',
]  # fmt: skip
LINES = st.lists(st.text(max_size=40) | st.sampled_from(ODD_LINES), max_size=8)
CELLS = st.lists(st.lists(st.sampled_from(ODD_CELLS) | st.text(max_size=9), max_size=4), max_size=6)


def tasks_or_reason(path):
    """The tasks that a list gives, or None after checking that it is refused in a line that names it."""
    try:
        tasks, _ = list_tasks(str(path), 0.1)
    except UserError as error:
        assert str(error).isprintable() and len(str(error)) < 1000 and path.name in str(error)
        return None
    assert all(task.bytes == -1 for task in tasks if task.name != 'a.mp4')  # nothing but this one was looked at
    return tasks


@given(ANYTHING)
@example(b'\xff\xfea\0.\0m\0p\x004\0')
@example(b'a' * 5000)
@example(b'\n\n# nothing\n')
def test_a_list_of_any_bytes_is_read_or_refused(tmp_path, data):
    (tmp_path / 'list.txt').write_bytes(data)
    tasks_or_reason(tmp_path / 'list.txt')
    (tmp_path / 'list.csv').write_bytes(b'path,start,end\n' + data)
    tasks_or_reason(tmp_path / 'list.csv')


@given(LINES)
def test_a_list_of_any_lines_is_read_or_refused(tmp_path, lines):
    (tmp_path / 'a.mp4').write_bytes(b'no video')
    (tmp_path / 'list.txt').write_bytes('\n'.join(lines).encode(errors='surrogatepass'))
    tasks = tasks_or_reason(tmp_path / 'list.txt')
    if tasks:
        parts = {part.strip(' \t\r\n') for line in lines for part in line.replace('\r', '\n').split('\n')}
        assert {task.name for task in tasks} <= parts | {part.removeprefix('\ufeff').strip(' \t') for part in parts}


@given(CELLS)
def test_a_table_of_any_cells_is_read_or_refused(tmp_path, cells):
    text = io.StringIO()
    text.write('path,start,end\n')
    text.writelines(','.join(row) + '\n' for row in cells)
    (tmp_path / 'list.csv').write_bytes(text.getvalue().encode(errors='surrogatepass'))
    for task in tasks_or_reason(tmp_path / 'list.csv') or ():
        assert 0 <= (task.start_s or 0) <= 48 * 3600


def test_a_name_with_any_letter_but_a_new_line_can_be_listed(
    tmp_path,
):
    names = [
        os.fsdecode(name) for name in NAMES if b'\n' not in name and b'\r' not in name and name.strip(b' ') == name
    ]
    (tmp_path / 'list.txt').write_bytes(b'\xef\xbb\xbf' + os.fsencode('\n'.join(names)))
    assert FolderSource(tmp_path / 'list.txt').names == names


def read_list(path):
    """What `rvm prepare` does with its --input."""
    from rvm_jax.data.prepare.inputs import list_tasks

    list_tasks(path, 0.1)


def test_long_lists_and_what_is_no_file_stay_within_bounds(guarded, tmp_path):
    folder = tmp_path / 'lists'
    folder.mkdir()
    for kind in ('txt', 'csv'):
        (folder / f'line.{kind}').write_bytes(b'path\n' + b'a' * 100_000_000)
        (folder / f'nulls.{kind}').write_bytes(b'path\n' + bytes(100_000_000))
        (folder / f'quoted.{kind}').write_bytes(b'path\n"' + b'\n' * 3_000_000)
        (folder / f'device.{kind}').symlink_to('/dev/zero')
        os.mkfifo(folder / f'pipe.{kind}')
        (folder / f'folder.{kind}').mkdir()
    (tmp_path / 'one.txt').write_text('a.mp4\n')
    outcomes = guarded(read_list, sorted(folder.iterdir()), first=[tmp_path / 'one.txt'], memory=200 * 2**20)
    used = [os.path.basename(outcome.file) for outcome in outcomes if outcome.kind == 'used']
    assert used == ['quoted.txt']


@pytest.mark.slow
def test_a_list_of_a_million_lines_is_read(guarded, tmp_path):
    (tmp_path / 'many').mkdir()
    for kind in ('txt', 'csv'):
        (tmp_path / 'many' / f'many.{kind}').write_text('path\n' + ''.join(f'{i}.mp4\n' for i in range(1_000_000)))
    (tmp_path / 'one.txt').write_text('a.mp4\n')
    how = {'first': [tmp_path / 'one.txt'], 'seconds': 200, 'memory': 1500 * 2**20}
    assert {outcome.kind for outcome in guarded(read_list, sorted((tmp_path / 'many').iterdir()), **how)} == {'used'}


@pytest.mark.parametrize('part', [(10, float('inf')), (10, float('nan')), (10, -1), (10, 0), (float('inf'), 1), (-2, 1),
                                  (float('nan'), 1)])  # fmt: skip
def test_a_mixture_takes_numbers_above_0_only(tmp_path, part):
    (tmp_path / 'a.mp4').write_bytes(b'no video')
    data = config.default().data
    data.mixture = ((str(tmp_path), *map(float, part)),)
    with pytest.raises(UserError, match='both are above 0, and finite'):
        open_data.open_training(data)


@pytest.fixture
def odd_names(tmp_path):
    folder = tmp_path / 'videos'
    folder.mkdir()
    for name in NAMES:
        with open(os.path.join(os.fsencode(folder), name), 'wb') as file:
            file.write(b'no video')
    return folder


def test_names_reach_the_terminal_as_text(odd_names, capsys):
    for name in os.listdir(odd_names):
        with pytest.raises(DataError) as error:
            probe(odd_names / name)
        assert str(error.value).isprintable()
        assert cli.run('info', [str(odd_names / name)]) == 65
    captured = capsys.readouterr()
    assert all(line.isprintable() for line in (captured.out + captured.err).split('\n'))
    assert len((captured.out + captured.err).splitlines()) == len(NAMES)


def test_prepare_reports_odd_names_and_writes_in_its_folder_only(odd_names, tmp_path, capsys):
    before = sorted(os.listdir(odd_names))
    flags = ['--input', str(odd_names / '*'), '--output', str(tmp_path / 'shards'), '--workers', '1']
    assert cli.run('prepare', flags) == 65
    captured = capsys.readouterr()
    assert all(line.isprintable() for line in (captured.out + captured.err).split('\n'))
    report = (tmp_path / 'shards' / 'skipped.json').read_bytes()
    assert report.decode('ascii').replace('\n', '').isprintable()
    [files] = json.loads(report)['reasons'].values()
    assert {file['name'] for file in files} == {os.fsdecode(name) for name in NAMES if not name.startswith(b'.')}
    assert sorted(os.listdir(odd_names)) == before and sorted(os.listdir(tmp_path)) == ['shards', 'videos']
