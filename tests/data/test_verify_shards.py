import os
import re
import shutil

import cv2
import numpy as np
import pytest

from rvm_jax import cli


@pytest.fixture(scope='module')
def prepared(tmp_path_factory, write_video):
    folder = tmp_path_factory.mktemp('prepared')
    (folder / 'videos').mkdir()
    for i in range(8):
        write_video(folder / 'videos' / f'{i}.mp4', 20 + i, size=(96, 64) if i % 2 else (64, 96))
    (folder / 'videos' / 'bad.mp4').write_bytes(b'bad')
    flags = ['--input', str(folder / 'videos'), '--output', str(folder / 'shards'), '--val', '0']
    assert cli.run('prepare', flags) == 0
    return folder / 'shards'


@pytest.fixture
def folder(tmp_path, prepared):
    return shutil.copytree(prepared, tmp_path / 'shards')


def test_shards_are_summed_up_checked_and_drawn(folder, capsys):
    capsys.readouterr()
    assert cli.run('info', [str(folder)]) == 0
    rows = dict(line.split('  ', 1) for line in capsys.readouterr().out.splitlines())
    rows = {what: text.strip() for what, text in rows.items()}
    assert rows['train'].startswith('8 videos, 8 clips of 64 frames, 18.8 seconds') and rows['val'] == 'nothing'
    assert rows['original sizes'] == '64x96 (4), 96x64 (4)' and rows['original rates'] == '10 (8)'
    assert rows['left out'] == '1 (skipped.json)'
    assert rows['checked'] == 'checksums of all shards are right, 1 in number'
    picture = cv2.imread(rows['picture'])
    assert rows['picture'] == f'{folder}/contact_sheet.png' and picture.shape[1] > 6 * 192
    stripes = (np.abs(picture.astype(int) - 30).max(-1) < 20).mean()  # of the numbers drawn on the frames
    assert stripes > 0.05


def flip(path, place):
    with open(path, 'r+b') as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize(
    ('flags', 'damage', 'reason'),
    [
        ([], lambda path: flip(path, 20_000), 'does not match its checksum'),
        ([], lambda path: os.truncate(path, 20_000), 'has 20,000 bytes instead of'),
        (['--quick'], lambda path: path.unlink(), r'is in the manifest but cannot be read \(No such file'),
    ],
)
def test_damage_is_named(folder, capsys, flags, damage, reason):
    damage(folder / 'train-00000.array_record')
    assert cli.run('info', [str(folder), *flags]) == 65
    error = capsys.readouterr().err
    assert 'damaged shards, 1 of 1' in error and 'train-00000.array_record' in error
    assert re.search(reason, error)
