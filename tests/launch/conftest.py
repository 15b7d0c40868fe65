"""A checkout and a Google Cloud to launch in: the real scripts, with stand-ins for the programs they call."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

REPO = pathlib.Path(__file__).parents[2]
STANDINS = pathlib.Path(__file__).parent / 'standins'


class Launcher:
    """Runs a script of a small git checkout; what the stand-ins keep is under `root`."""

    def __init__(self, folder):
        self.root, self.checkout = folder / 'standin', folder / 'checkout'
        for name in ('bucket', 'signs', 'hosts'):
            (self.root / name).mkdir(parents=True)
        shutil.copytree(REPO / 'launch', self.checkout / 'launch')
        (self.checkout / 'constraints.txt').write_text('numpy==2.4.6\n')
        for command in (['init', '--quiet'], ['add', '--all']):
            subprocess.run(['git', '-C', self.checkout, *command], check=True)
        (folder / 'home').mkdir()
        self.env = {
            'PATH': f'{STANDINS}:{pathlib.Path(sys.executable).parent}:/usr/bin:/bin',
            'HOME': str(folder / 'home'),
            'STANDIN': str(self.root),
            'RVM_LAUNCH_POLL': '0',
        }
        self.standins, self.started = STANDINS, []
        self.plan()

    def plan(self, hosts=2, runs='', **zones):
        """zones: what each gives; runs: how each start goes, see standins/host/rvm."""
        plan = {'hosts': hosts, 'zones': zones or {'a': 'gives', 'b': 'gives'}}
        (self.root / 'plan.json').write_text(json.dumps(plan))
        (self.root / 'runs').write_text(runs)

    def start(self, script, *arguments):
        """The script, running, with its output as it comes; for `run`, finished."""
        command = ['bash', self.checkout / 'launch' / script, *arguments]
        process = subprocess.Popen(
            command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.checkout
        )
        self.started.append(process)
        return process

    def run(self, script, *arguments):
        process = self.start(script, *arguments)
        stdout, stderr = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def calls(self, *words):
        """Commands the stand-ins were given that contain all these words."""
        path = self.root / 'calls.jsonl'
        calls = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [call for call in calls if set(words) <= set(call)]

    def sign(self, name):
        (self.root / 'signs' / name).touch()

    def host(self, number, zone='a'):
        return self.root / 'hosts' / zone / str(number)

    def close(self):
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.communicate()
        pids = [int(path.read_text()) for path in self.root.glob('hosts/*/*/rvm_jax/run/pid')]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


@pytest.fixture
def launcher(tmp_path):
    launcher = Launcher(tmp_path)
    yield launcher
    launcher.close()
