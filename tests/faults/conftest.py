"""The real `rvm` command is started, damaged and started again, and compared with an uninterrupted run.

Every test has a mark `fault(name, what is done)` and passes what was seen to `seen`. `make test-faults` ends with a
table of all faults, as docs/reliability.md has it.
"""

import collections
import json
import os
import pathlib
import queue
import resource
import shutil
import signal
import string
import subprocess
import sys
import threading
import time

import pytest

from rvm_jax.synthetic.synthetic_videos import write_videos

HERE = pathlib.Path(__file__).parent
STEPS = 14
RECIPE = {
    'steps': STEPS, 'batch_size': 4, 'model.unroll': 'false', 'data.image_size': 16, 'data.num_workers': 0,
    'checkpoint.every': 3, 'log.every': 1, 'log.images_every': 0, 'log.eval_clips': 4,
}  # fmt: skip


class Command:
    """`rvm ...` in its own process group; its output is read all the time, stderr together with stdout.

    shell redirects its streams, such as '2>&-' or '| head -n 1'.
    """

    def __init__(self, *arguments, shell='', **environment):
        rvm = os.path.join(os.path.dirname(sys.executable), 'rvm')
        before = ('bash', '-o', 'pipefail', '-c', f'exec "$0" "$@" {shell}') if shell else ()
        self.process = subprocess.Popen(
            list(map(str, (*before, rvm, *arguments))), env=_environment(environment), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors='replace', start_new_session=True,
        )  # fmt: skip
        self.pid, self._lines, self._said = self.process.pid, queue.SimpleQueue(), []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, text, timeout=180):
        """Read until a line has this text; AssertionError with all output if there is none."""
        deadline = time.monotonic() + timeout
        while (line := self._next(deadline)) is not None:
            if text in line:
                return line
        raise AssertionError(f'{text!r} was not said: {"".join(self._said)}')

    def wait_for_steps(self, number):
        """Until so many steps were logged, or the command has ended."""
        deadline = time.monotonic() + 180
        while number and (line := self._next(deadline)) is not None:
            number -= line.startswith('step ')

    def signal(self, number):
        """To the command alone."""
        self.process.send_signal(number)

    def kill(self):
        """SIGKILL for the whole group, as when the machine is lost."""
        os.killpg(self.pid, signal.SIGKILL)
        return self.end()

    def limit_files(self, size):
        """From now on no file of the command can grow beyond so many bytes; -1: any size."""
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def end(self, timeout=300):
        """(exit code, all output) when it has ended by itself; no process of its group may be left."""
        deadline = time.monotonic() + timeout
        while self._next(deadline) is not None:
            pass
        code, deadline = self.process.wait(), time.monotonic() + 10
        while _lives(self.pid):
            assert time.monotonic() < deadline, 'it left processes behind'
            time.sleep(0.05)
        return code, ''.join(self._said)

    def stop(self):
        """Leave nothing behind."""
        if self.process.poll() is None or _lives(self.pid):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def _next(self, deadline):
        try:
            line = self._lines.get(timeout=max(0, deadline - time.monotonic()))
        except queue.Empty:
            raise AssertionError(f'nothing more was said in time: {"".join(self._said)}') from None
        self._said += [line] if line is not None else []
        return line


class Training:
    """Runs of `rvm train` on the tiny recipe, one after another, in one workdir."""

    def __init__(self, folder, videos):
        self.workdir, self._seen, self._videos, self._started = folder / 'run', folder / 'seen.jsonl', videos, []

    def take_over(self, other, step=STEPS):
        """Start from a copy of another Training, as it is now or as it was right after it had saved an earlier step."""
        shutil.copytree(other.workdir, self.workdir)
        for name in self.steps():
            if int(name) > step:
                shutil.rmtree(self.workdir / 'checkpoints' / name)
        lines = other._seen.read_text().splitlines()
        self._seen.write_text(''.join(f'{line}\n' for line in lines if json.loads(line)['step'] <= step))

    def start(self, *flags, hold=(), environment=(), shell='', **overrides):
        """Start it, or start it again; config keys are written with __ for dots. Steps in hold wait for `release`."""
        config = RECIPE | {'data.path': self._videos}
        config |= {key.replace('__', '.'): value for key, value in overrides.items()}
        words = [f'--config.{key}={value}' for key, value in config.items()]
        arguments = 'train', '--config', 'configs/tiny.py', '--workdir', self.workdir, *flags, *words
        environment = dict(environment) | {'RVM_SEEN': str(self._seen), 'RVM_HOLD': ','.join(map(str, hold))}
        command = Command(*arguments, shell=shell, **environment)
        self._started.append(command)
        return command

    def finish(self, *flags, **overrides):
        """Start it and let it end; it must exit with 0. Returns its output."""
        code, said = self.start(*flags, **overrides).end()
        assert code == 0, said
        return said

    def losses(self):
        """{step: loss} in the log, which must have each step once."""
        entries = [entry for entry in self.logged('metrics.jsonl') if 'loss' in entry]
        found = {entry['step']: entry['loss'] for entry in entries}
        assert len(found) == len(entries)
        return found

    def logged(self, name):
        """The objects in a file of lines."""
        return [json.loads(line) for line in (self.workdir / name).read_text().splitlines()]

    def trained(self):
        """The steps in the order in which they were trained."""
        return [json.loads(line)['step'] for line in self._seen.read_text().splitlines()]

    def clips(self):
        """{step: [(videos, checksum of their pixels) each time that the step was trained]}."""
        found = collections.defaultdict(list)
        for line in self._seen.read_text().splitlines():
            entry = json.loads(line)
            found[entry['step']].append((tuple(entry['videos']), entry['pixels']))
        return found

    def repeated(self, reference, steps=STEPS):
        """How many steps were trained more than once; every clip and every loss must be the reference's."""
        expected, found = reference.clips(), self.clips()
        assert sorted(found) == list(range(1, steps + 1))
        for step, times in found.items():
            assert set(times) == {expected[step][0]}, f'step {step}'
        assert self.losses() == {step: loss for step, loss in reference.losses().items() if step <= steps}
        return sum(len(times) - 1 for times in found.values())

    def steps(self):
        """The names in the folder of checkpoints."""
        return sorted(
            (path.name for path in (self.workdir / 'checkpoints').iterdir()), key=lambda name: (len(name), name)
        )

    def wait_held(self, step, meanwhile=lambda: None):
        """Wait until the run holds before this step and all steps but the last are logged; polls with `meanwhile`."""
        held = self._seen.with_name(f'{self._seen.name}.held_{step}')
        wait_until(lambda: (meanwhile(), held.exists())[1])

    def release(self, step):
        """Let the run continue with this step."""
        self._seen.with_name(f'{self._seen.name}.go_{step}').touch()

    def wait_for_checkpoint(self, step):
        """Wait until the checkpoint of this step is complete."""
        wait_until((self.workdir / 'checkpoints' / str(step)).exists)

    def close(self):
        for command in self._started:
            command.stop()


def wait_until(condition, timeout=180):
    """Poll the condition; AssertionError if it does not become true."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _environment(more):
    """One device, programs compiled quickly, and what each Python imports first: inside/sitecustomize.py."""
    flags = ' '.join(flag for flag in os.environ['XLA_FLAGS'].split() if 'device_count' not in flag)
    return os.environ | {'XLA_FLAGS': flags, 'PYTHONPATH': str(HERE / 'inside')} | more


def _lives(group):
    """Whether a group has a process that is not a zombie."""
    for stat in pathlib.Path('/proc').glob('[0-9]*/stat'):
        try:
            state, _, found = stat.read_text().rpartition(')')[2].split()[:3]
        except OSError:
            continue
        if int(found) == group and state != 'Z':
            return True
    return False


@pytest.fixture(scope='session')
def videos(tmp_path_factory):
    """A folder of eight short videos."""
    folder = tmp_path_factory.mktemp('videos')
    write_videos(folder, 8, seed=0, num_frames=24, height=24, width=24, num_workers=0)
    return folder


@pytest.fixture
def training(tmp_path, videos):
    """A Training whose processes end with the test."""
    training = Training(tmp_path, videos)
    yield training
    training.close()


@pytest.fixture(scope='session')
def reference(tmp_path_factory, videos):
    """An uninterrupted Training with all its checkpoints: 3, 6, 9, 12 and 14."""
    reference = Training(tmp_path_factory.mktemp('reference'), videos)
    reference.finish(checkpoint__keep=9)
    return reference


@pytest.fixture(scope='session')
def make_training(tmp_path_factory, videos):
    """make_training(videos=...) -> one more Training."""
    made = []

    def make(videos=videos):
        made.append(Training(tmp_path_factory.mktemp('training'), videos))
        return made[-1]

    yield make
    for training in made:
        training.close()


@pytest.fixture
def command():
    """command(*arguments) -> Command, for commands other than train."""
    started = []

    def start(*arguments, **environment):
        started.append(Command(*arguments, **environment))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def seen(request, record_property):
    """seen(what, lost=steps trained again): for the table of `make test-faults`."""
    name, fault = request.node.get_closest_marker('fault').args

    def remember(what, lost=0):
        record_property('fault', [name, fault, what, lost])

    return remember


def pytest_terminal_summary(terminalreporter):
    """The table of all faults that were tried."""
    rows, failed = [], []
    for outcome in ('passed', 'failed'):
        for report in terminalreporter.stats.get(outcome, []):
            found = [value for key, value in report.user_properties if key == 'fault']
            rows += [(*row, 'yes' if outcome == 'passed' else 'NO') for row in found if report.when == 'call']
            failed += [report.nodeid] if outcome == 'failed' and not found else []
    if rows:
        rows.sort(key=lambda row: (int(row[0][1:].rstrip(string.ascii_lowercase)), row))
        _print_table([('', 'fault', 'what was seen', 'steps repeated', 'passed'), *rows], terminalreporter)
    for nodeid in failed:
        terminalreporter.line(f'NO  {nodeid}')


def _print_table(rows, terminalreporter):
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    terminalreporter.section('faults')
    for row in rows:
        terminalreporter.line('  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
