"""The real gcloud, where installed, reads every line that a dry run of launch/tpu.sh prints. It needs no account."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

NAME = ('--name', 'rvm', '--zones', 'us-east5-b', '--project', 'p')
SLICE = (*NAME, '--accelerator', 'v6e-256')
RUN = (
    '--',
    'train',
    '--config',
    'configs/rvm_h.py',
    '--workdir',
    'gs://bucket/runs/h',
    "--config.data.path=/it's a path",
)
CREATE = (
    '--spot', '--network', 'n', '--subnetwork', 's', '--service-account', 'me@p.iam.gserviceaccount.com', '--labels',
    'a=b,c=d', '--data-disk', 'source=projects/p/zones/z/disks/d,mode=read-only', '--create-flag', '--tags=a,b',
)  # fmt: skip
COMMANDS = [
    ('create', *SLICE, *CREATE),
    ('create', *SLICE, '--reserved', '--node-count', '2', '--internal-ip'),
    ('create', *SLICE, '--reservation', 'mine'),
    ('create', *SLICE, '--flex-start', '7200'),
    (
        'train',
        *SLICE,
        '--data',
        'gs://bucket/shards',
        '--prepare',
        'mount -a',
        '--env',
        'A=b c',
        '--flags',
        'vmem,overlap',
        *RUN,
    ),
    ('train', *SLICE, '--tunnel-through-iap', '--user', 'me', '--ssh-flag', '-oProxyJump=host', '--take', *RUN),
    ('train', *SLICE, '--internal-ip', '--offline', *RUN),
    *((verb, *NAME) for verb in ('setup', 'status', 'logs', 'stop', 'delete')),
    ('logs', *NAME, '--worker', '3', '--follow'),
]
# One process for all lines: gcloud takes two seconds to start.
READ = """
import contextlib, io, json, sys
sys.path[:0] = [f'{sys.argv[1]}/lib', f'{sys.argv[1]}/lib/third_party']
from googlecloudsdk import gcloud_main
from googlecloudsdk.core import log
cli = gcloud_main.CreateCLI([])
for words in json.load(sys.stdin):
    text = io.StringIO()
    with contextlib.redirect_stderr(text), contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        log.Reset(text, text)
        cli.Execute(words)
    print(json.dumps(text.getvalue()))
"""


def sdk():
    """The folder of an installed Google Cloud SDK."""
    gcloud = shutil.which('gcloud')
    root = gcloud and pathlib.Path(gcloud).resolve().parents[1]
    return root if root and (root / 'lib/googlecloudsdk').exists() else None


def answers(lines, folder):
    """What gcloud says to each line."""
    env = {**os.environ, 'CLOUDSDK_CONFIG': str(folder), 'CLOUDSDK_CORE_DISABLE_PROMPTS': '1'}
    done = subprocess.run(
        [sys.executable, '-IS', '-c', READ, sdk()], input=json.dumps(lines), env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(sdk() is None, reason='gcloud is not installed')
def test_the_real_gcloud_reads_every_line(tpu, tmp_path):
    lines = {}
    for command in COMMANDS:
        done = tpu.tpu(*command[:1], '--dry-run', *command[1:])
        assert done.returncode == 0, done.stderr
        for line in done.stdout.splitlines():
            if line.startswith('gcloud '):
                lines.setdefault(tuple(shlex.split(line)[1:]))
    assert len(lines) > 30
    wrong = 'compute tpus queued-resources describe rvm --zone=a --sopt=1'.split()
    *said, refused = answers([*lines, wrong], tmp_path / 'config')
    assert 'unrecognized arguments: --sopt=1' in refused
    for line, text in zip(lines, said, strict=True):
        has_no_account = 'do not currently have an active account' in text
        is_local = line[:2] == ('auth', 'list') and 'ERROR' not in text
        assert has_no_account or is_local, (line, text)
