"""`rvm prepare` as users run it: real processes, signals and files."""

import glob
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from rvm_jax import cli
from rvm_jax.data import shard_format
from rvm_jax.data.prepare.encode_video import Settings
from rvm_jax.data.prepare.prepare_job import PrepareJob

FOUR_SHARDS = ['--shard-mb', '1', '--quality', '100', '--short-side', '0']


@pytest.fixture(scope='module')
def videos(tmp_path_factory, write_video):
    folder = tmp_path_factory.mktemp('videos')
    for i in range(12):
        write_video(folder / f'{i:02}.mp4', 60 + i, size=(640, 480))
    return folder


def prepare(videos, output, *flags):
    return cli.run('prepare', ['--input', str(videos), '--output', str(output), '--val', '0.4', *flags])


def command(videos, output, *flags):
    return [sys.executable, '-m', 'rvm_jax.prepare', '--input', str(videos), '--output', str(output), '--val', '0.4',
            '--workers', '2', *flags]  # fmt: skip


def content(folder):
    """{shard: its records}, and the manifest without what describes the container."""
    manifest = shard_format.read_manifest(folder)
    records = {}
    for shard in manifest['shards']:
        reader = shard_format.ShardReader(os.path.join(folder, shard['name']), shard['records'])
        records[shard['name']] = reader.read(range(shard['records']))
        reader.close()
    return records, manifest


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory, videos):
    output = tmp_path_factory.mktemp('shards') / 'whole'
    assert prepare(videos, output, '--workers', '2', *FOUR_SHARDS) == 0
    found = content(output)
    assert len(found[0]) >= 4
    return found


def test_what_is_there_at_the_end(tmp_path, videos, write_video, capsys):
    folder = tmp_path / 'videos'
    shutil.copytree(videos, folder)
    (folder / 'no video.mp4').write_text('<html>404</html>')
    write_video(folder / 'short.mp4', 5)
    output = tmp_path / 'shards'
    assert prepare(folder, output) == 0
    manifest = json.loads((output / 'manifest.json').read_text())
    assert [split['videos'] > 0 for split in manifest['splits'].values()] == [True, True]
    assert sum(split['videos'] for split in manifest['splits'].values()) == 12
    assert sum(split['frames'] for split in manifest['splits'].values()) == sum(60 + i for i in range(12))
    assert sum(split['hours'] for split in manifest['splits'].values()) == pytest.approx(786 / 36000)
    assert manifest['histograms'] == {'fps': {'10': 12}, 'size': {'640x480': 12}}
    assert manifest['skipped'] == 2
    for shard in manifest['shards']:
        assert os.path.getsize(output / shard['name']) == shard['bytes']
        assert sum(shard['frames']) + 1 == shard['records']
    reasons = json.loads((output / 'skipped.json').read_text())['reasons']
    assert {reason: [file['name'] for file in files] for reason, files in reasons.items()} == {
        'cannot be opened as a video': ['no video.mp4'],
        'has too few frames': ['short.mp4'],
    }
    assert sorted(os.listdir(output)) == [
        'manifest.json', 'skipped.json', 'train-00000.array_record', 'val-00000.array_record']  # fmt: skip
    printed = capsys.readouterr().out
    assert 'shards: train ' in printed and 'skipped.json says why' in printed
    assert prepare(folder, output) == 0
    assert 'nothing to do, all 14 videos are prepared' in capsys.readouterr().out


@pytest.mark.long
def test_ten_kills_and_a_last_start_give_the_same_shards(tmp_path, videos):
    folder, output, whole = (str(tmp_path / name) for name in ('videos', 'shards', 'whole'))
    for copy in 'abcd':
        shutil.copytree(videos, os.path.join(folder, copy))
    assert prepare(folder, whole, *FOUR_SHARDS) == 0
    expected = content(whole)
    sizes = {shard['name']: shard['bytes'] for shard in expected[1]['shards']}
    rng, progress = random.Random(5), [0]
    while len(progress) <= 10:
        process = subprocess.Popen(command(folder, output, *FOUR_SHARDS), start_new_session=True)
        while process.poll() is None and num_done(output) <= progress[-1]:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, 'it was finished before the tenth kill'
        progress.append(num_done(output))
        shown = [name for name in os.listdir(output) if name.endswith('.array_record')]
        assert all(os.path.getsize(os.path.join(output, name)) == sizes[name] for name in shown)
    assert prepare(folder, output, *FOUR_SHARDS) == 0
    assert content(output) == expected
    assert not os.path.exists(os.path.join(output, 'unfinished'))


def num_done(output):
    return len(glob.glob(os.path.join(output, 'unfinished', '*', '*.json')))


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_it_with_everything_kept(tmp_path, videos, number, code):
    output = tmp_path / 'shards'
    process = subprocess.Popen(command(videos, output), start_new_session=True, stderr=subprocess.PIPE, text=True)
    while not list(output.glob('unfinished/*/*.json')):
        time.sleep(0.02)
    os.killpg(process.pid, number)  # as a terminal and a scheduler do it, to the whole group
    message = process.communicate(timeout=30)[1]
    assert process.returncode == code
    assert 'of 12 videos are done; the same command line resumes' in message and 'Traceback' not in message
    assert prepare(videos, output) == 0
    assert shard_format.read_manifest(output)['skipped'] == 0


def test_videos_that_hang_or_crash_their_process_are_skipped(tmp_path, videos, bad_decoder):
    folder = tmp_path / 'videos'
    shutil.copytree(videos, folder)
    for name in ('spins.mp4', 'crashes.mp4'):
        shutil.copy(folder / '00.mp4', folder / name)
    line = command(folder, tmp_path / 'shards', '--timeout', '3')
    subprocess.run(line, check=True, timeout=60)
    reasons = json.loads((tmp_path / 'shards' / 'skipped.json').read_text())['reasons']
    assert [files[0]['detail'] for files in reasons.values()] == [
        'ends the process that decodes it (2 times, exit code -11)',
        'takes too long to decode (no frame in 3 s, its process was ended)',
    ]
    assert shard_format.read_manifest(tmp_path / 'shards')['skipped'] == 2


@pytest.mark.long
def test_after_a_full_disk_it_resumes_when_there_is_room(tmp_path, videos, undisturbed):
    output = tmp_path / 'shards'
    line = command(videos, output, *FOUR_SHARDS)
    limited = ['bash', '-c', 'ulimit -f 950 && exec "$@"', 'bash', *line]  # kilobytes: a video fits, a shard does not
    ended = subprocess.run(limited, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 75
    assert 'File too large; what is finished is kept, the same command resumes' in ended.stderr
    assert 'Traceback' not in ended.stderr and not list(output.glob('*.array_record'))
    subprocess.run(line, check=True)
    assert content(output) == undisturbed


def test_a_video_that_the_codec_cannot_hold_is_skipped(tmp_path, write_video):
    (tmp_path / 'videos').mkdir()
    write_video(tmp_path / 'videos' / 'good.mp4', 20)
    write_video(tmp_path / 'videos' / 'narrow.mkv', 20, size=(32, 1), codec='ffv1', pix_fmt='bgr0')
    assert prepare(tmp_path / 'videos', tmp_path / 'shards', '--codec', 'h264') == 0
    reasons = json.loads((tmp_path / 'shards' / 'skipped.json').read_text())['reasons']
    assert {reason: file['name'] for reason, [file] in reasons.items()} == {'is too narrow for h264': 'narrow.mkv'}


def test_other_videos_or_settings_are_refused(tmp_path, videos, capsys):
    output = tmp_path / 'shards'
    assert prepare(videos, output) == 0
    assert prepare(videos, output, '--fps', '5') == 2
    assert 'holds shards of other videos or settings; take another --output' in capsys.readouterr().err


def test_unfinished_work_is_not_mixed_with_other_work(tmp_path, videos, capsys):
    work = PrepareJob(str(videos), str(tmp_path / 'begun'), Settings(), 0.4)
    with work.begin():
        assert prepare(videos, tmp_path / 'begun') == 2
        message = capsys.readouterr().err
        assert 'run.lock: in use by process' in message and 'or choose another --output' in message
    assert prepare(videos, tmp_path / 'begun', '--quality', '50') == 2
    assert 'was begun with other videos or settings (quality was 90, now 50)' in capsys.readouterr().err
    assert prepare(videos / '03.mp4', tmp_path / 'begun') == 2
    assert 'removed or changed: 00.mp4; removed or changed: 01.mp4' in capsys.readouterr().err


def test_nothing_that_can_be_used_is_said_with_the_reasons(tmp_path, capsys):
    (tmp_path / 'a.mp4').write_bytes(b'')
    assert prepare(tmp_path / 'a.mp4', tmp_path / 'shards') == 65
    assert 'none of 1 videos can be used (1 is empty)' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--fps', '0'], '--fps 0: is not a frame rate'),
        (['--val', '1'], '--val 1: is not a fraction'),
        (['--quality', '0'], '--quality 0: is not a quality of jpeg; give 1 to 100'),
        (['--group', '8'], '--group 8: does not go with jpeg; give --codec h264'),
        (['--workers', '0'], '--workers 0: must be above 0'),
    ],
)
def test_a_flag_that_makes_no_sense_is_named(tmp_path, videos, flags, message, capsys):
    assert prepare(videos, tmp_path / 'shards', *flags) == 2
    assert message in capsys.readouterr().err and not (tmp_path / 'shards').exists()


def test_work_that_an_older_version_began_is_resumed(tmp_path, videos):
    output = tmp_path / 'shards'
    work = PrepareJob(str(videos / '00.mp4'), str(output), Settings(), 0.4)
    with work.begin():
        pass
    (output / 'unfinished' / 'lock').touch()  # which version 0.1.0 locked, and left there when it was killed
    assert prepare(videos / '00.mp4', output) == 0
    assert sorted(os.listdir(output))[0] == 'manifest.json' and not (output / 'unfinished').exists()


def test_shards_in_a_bucket_are_refused(videos, capsys):
    assert prepare(videos, 'gs://bucket/shards') == 2
    assert 'gs://bucket/shards: is in a bucket, and shards are written to a disk' in capsys.readouterr().err


def test_a_split_that_got_no_video_is_named(tmp_path, write_video, capsys):
    (tmp_path / 'videos').mkdir()
    write_video(tmp_path / 'videos' / 'a.mp4', 20)
    assert prepare(tmp_path / 'videos', tmp_path / 'shards', '--val', '1e-9') == 0
    printed = capsys.readouterr().out
    assert 'no video is held out: by chance, --val 1e-09 took none of them; raise it' in printed
    assert '--config.data.eval_path' not in printed
