import json
import os
import shutil
import subprocess
import sys

import pytest

from rvm_jax import cli
from rvm_jax.data.prepare.encode_video import Settings, outcome_of, prepare_task, record_outcome
from rvm_jax.data.prepare.join_shards import ShardPlanner, join_shard
from rvm_jax.data.prepare.prepare_beam import PrepareVideo, run_pipeline
from rvm_jax.data.prepare.prepare_job import PrepareJob
from rvm_jax.data.prepare.prepare_pool import Pool
from rvm_jax.errors import Stopped, UserError

RUNNER = 'FnApiRunner'  # what DirectRunner comes down to, without its attempt to download another
SETTINGS = Settings(fps=5.0, shard_bytes=25_000)


@pytest.fixture(scope='module')
def videos(tmp_path_factory, write_video):
    folder = tmp_path_factory.mktemp('videos')
    for i in range(6):
        write_video(folder / f'{i}.mp4', 40 + 4 * i)
    os.rename(folder / '5.mp4', os.path.join(os.fsencode(folder), b'\xff.mp4'))
    (folder / 'bad.mp4').write_bytes(b'no video at all')
    write_video(folder / 'short.mp4', 3)
    return str(folder)


def make(videos, output, act):
    work = PrepareJob(videos, str(output), SETTINGS, 0.4)
    with work.begin():
        work.finish(*act(work))
    return files(output)


def files(folder):
    """{name: content}."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope='module')
def made_here(tmp_path_factory, videos):
    output = tmp_path_factory.mktemp('shards')
    found = make(videos, output, lambda work: Pool(work, 1, 60.0, lambda task, outcome: None).run())
    names = {name for name in found if name.endswith('.array_record')}
    assert {'train-00000.array_record', 'train-00001.array_record', 'val-00000.array_record'} <= names
    assert json.loads(found['manifest.json'])['skipped'] == 2
    return found


def test_beam_gives_the_same_files_as_the_local_pool(tmp_path, videos, made_here):
    assert make(videos, tmp_path, lambda work: run_pipeline(work, RUNNER, [], 60.0)) == made_here


def test_beam_resumes_what_the_local_pool_began(tmp_path, videos, made_here):
    folder = str(tmp_path / 'videos')
    shutil.copytree(videos, folder)

    def begin_here_and_go_on(work):
        numbers = [number for number, task in enumerate(work.tasks) if task.split == 'train'][:-1]
        cutter, shards = ShardPlanner(numbers, SETTINGS.shard_bytes), []
        for number in numbers:
            outcome = prepare_task(number, work.tasks[number], SETTINGS, work.folder)
            shards += cutter.add(number, outcome)
            os.remove(work.tasks[number].path)  # so it cannot be made again
        join_shard(work.output, work.folder, 'train', 0, shards[0])  # which cannot be done again either
        return run_pipeline(work, RUNNER, [], 60.0)

    output = tmp_path / 'shards'
    assert make(folder, output, begin_here_and_go_on) == made_here


def test_an_error_of_a_worker_stops_it_with_the_reason(tmp_path, videos):
    work = PrepareJob(videos, str(tmp_path), SETTINGS, 0.4)
    with work.begin():
        (tmp_path / 'unfinished' / '00000').write_text('in the way')
        with pytest.raises(Stopped, match=r'the pipeline failed: FileExistsError.*00000.*the same command resumes$'):
            run_pipeline(work, RUNNER, [], 60.0)


def test_videos_that_hang_or_crash_their_process_are_skipped(tmp_path, bad_decoder):
    step = PrepareVideo(str(tmp_path), SETTINGS, 1.0)
    step.setup()
    for number, name in enumerate(['spins.mp4', 'crashes.mp4']):
        step.process(json.dumps([number, name, str(tmp_path / name), None, None, 1, 0, 'train']))
    step.teardown()
    outcomes = [json.loads((tmp_path / '00000' / f'0000000{number}.json').read_text()) for number in range(2)]
    assert outcomes == [
        {'skipped': 'takes too long to decode (no frame in 1 s, its process was ended)'},
        {'skipped': 'ends the process that decodes it (2 times, exit code -11)'},
    ]


def test_a_retry_of_beam_does_not_make_a_video_again(tmp_path):
    record_outcome(str(tmp_path), 0, {'skipped': 'is too good'})
    step = PrepareVideo(str(tmp_path), SETTINGS, 60.0)
    step.process(json.dumps([0, 'a.mp4', str(tmp_path / 'a.mp4'), None, None, 1, 0, 'train']))
    assert outcome_of(str(tmp_path), 0) == {'skipped': 'is too good'}


@pytest.mark.parametrize(('folder', 'videos'), [('not here', '.'), ('.', 'not here')])
def test_a_worker_that_cannot_see_the_files_skips_nothing(tmp_path, folder, videos):
    step = PrepareVideo(str(tmp_path / folder), SETTINGS, 60.0)
    with pytest.raises(UserError, match=r'not here: does not exist on the worker .*; take paths that every'):
        step.process(json.dumps([0, 'a.mp4', str(tmp_path / videos / 'a.mp4'), None, None, 1, 0, 'train']))
    assert not list(tmp_path.iterdir())


def test_a_runner_that_beam_does_not_know_is_one_line(tmp_path, videos, capsys):
    assert cli.run('prepare', ['--input', videos, '--output', str(tmp_path), '--runner', 'Nobody', '--a_flag=1']) == 2
    message = capsys.readouterr().err
    assert 'rvm prepare: --runner=Nobody: Beam refuses it (Unexpected pipeline runner: Nobody' in message
    assert 'Traceback' not in message


def test_without_apache_beam_it_says_what_to_install(tmp_path, videos, capsys, monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert cli.run('prepare', ['--input', videos, '--output', str(tmp_path), '--runner', RUNNER]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f'rvm prepare: --runner {RUNNER}: needs apache-beam')
    assert "pip install 'rvm_jax[beam]'" in message


def test_beam_is_imported_only_for_a_runner(tmp_path, videos):
    flags = ['--input', os.path.join(videos, '0.mp4'), '--output', str(tmp_path), '--workers', '1']
    code = f'import sys; from rvm_jax import cli; print(cli.run("prepare", {flags}), "apache_beam" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.splitlines()[-1] == '0 False'
