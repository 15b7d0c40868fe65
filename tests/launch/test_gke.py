"""launch/gke.sh with the real kubectl, against a stand-in for a cluster: standins/kubernetes/api.py."""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest
import yaml

from rvm_jax.storage import checksums, files

REPO = pathlib.Path(__file__).parents[2]
STANDINS = pathlib.Path(__file__).parent / 'standins' / 'kubernetes'


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


api = load(STANDINS / 'api.py')

NAME = ('--name', 'rvm')
SLICE = (*NAME, '--accelerator', 'v6e-8', '--image', 'pkg.dev/p/rvm_jax:1')  # two hosts
needs_kubectl = pytest.mark.skipif(not shutil.which('kubectl'), reason='kubectl is not installed')
pytestmark = pytest.mark.long


@pytest.fixture
def gke(launcher, store):
    """The launcher with a cluster, and `run` as in --workdir; what a pod starts is standins/kubernetes/rvm."""
    home = pathlib.Path(launcher.env['HOME'])
    launcher.env |= {'KUBECONFIG': str(home / 'kubeconfig'), 'CLOUDSDK_CONFIG': str(home / 'gcloud')}
    launcher.env['PATH'] = f'{STANDINS}:{launcher.env["PATH"]}'
    pods = {**os.environ, **launcher.env, 'PYTHONPATH': str(REPO), 'RVM_LAUNCH_LEAST': '0'}
    launcher.cluster = api.Cluster(launcher.root / 'cluster', launcher.checkout, pods)
    (home / 'kubeconfig').write_text(
        'apiVersion: v1\nkind: Config\ncurrent-context: gke_shop_us-east5_pets\n'
        'contexts: [{name: gke_shop_us-east5_pets, context: {cluster: c, user: u}}]\n'
        f'clusters: [{{name: c, cluster: {{server: "{launcher.cluster.url}"}}}}]\nusers: [{{name: u, user: {{}}}}]\n'
    )
    launcher.training = ('--', 'train', '--config', 'configs/rvm_h.py', '--workdir', store.path)

    def run(*arguments):
        process = launcher.start('gke.sh', *arguments)
        output, messages = process.communicate(timeout=300)  # a busy machine takes minutes for several starts
        return subprocess.CompletedProcess(arguments, process.returncode, output, messages)

    launcher.gke = run
    launcher.train = lambda *options: launcher.gke('train', *SLICE, *options, *launcher.training)
    yield launcher
    launcher.cluster.close()


def started(gke, start=1, host=0):
    return json.loads((gke.root / f'started.{start}.{host}').read_text())


def starts(gke):
    return len((gke.root / 'starts.0').read_text().split())


def manifest(done):
    """The JobSet that a dry run prints."""
    return yaml.safe_load(re.search(r"<< 'END'\n(.*?)^END$", done.stdout, re.DOTALL | re.MULTILINE)[1])


def read_until(stream, *texts):
    """Until each has been in a line."""
    missing = set(texts)
    for line in stream:
        missing -= {text for text in missing if text in line}
        if not missing:
            return
    raise AssertionError(f'{missing} did not come')


# the JobSet


@pytest.mark.parametrize(
    ('options', 'label', 'topology', 'hosts', 'chips'),
    [
        (['v6e-256'], 'tpu-v6e-slice', '16x16', 64, 4),
        (['v6e-1'], 'tpu-v6e-slice', '1x1', 1, 1),
        (['v5litepod-16', '--slices', '4', '--host-network'], 'tpu-v5-lite-podslice', '4x4', 4, 4),
        (['v5p-128', '--spot', '--service-account', 'writer'], 'tpu-v5p-slice', '4x4x4', 16, 4),
        (['tpu7x-8', '--data', 'gs://bucket/shards/', '--prepare', 'true'], 'tpu7x', '2x2x1', 1, 4),
        (['tpu7x-768', '--topology', '4x8x12', '--env', 'A=b', '--flags', 'vmem'], 'tpu7x', '4x8x12', 96, 4),
    ],
)
def test_the_jobset_fits_the_schema_and_asks_for_the_slice(launcher, options, label, topology, hosts, chips):
    run = ('--', 'train', '--workdir', 'gs://b/run')
    done = launcher.run('gke.sh', 'train', '--dry-run', *NAME, '--image', 'i:1', '--accelerator', *options, *run)
    assert done.returncode == 0, done.stderr
    jobset = manifest(done)
    api.check(jobset, api.SCHEMA)
    (job,) = jobset['spec']['replicatedJobs']
    assert job['replicas'] == (4 if '--slices' in options else 1)
    job = job['template']['spec']
    assert (job['parallelism'], job['completions'], job['backoffLimit']) == (hosts, hosts, 0)
    (rule,) = job['podFailurePolicy']['rules']
    assert {2, 65, 76, 130} < set(rule['onExitCodes']['values']) and 75 not in rule['onExitCodes']['values']
    assert rule['onExitCodes']['values'] == sorted(rule['onExitCodes']['values'])
    pod = job['template']['spec']
    selector = {'cloud.google.com/gke-tpu-accelerator': label, 'cloud.google.com/gke-tpu-topology': topology}
    spot = {'cloud.google.com/gke-spot': 'true'} if '--spot' in options else {}
    assert pod['nodeSelector'] == selector | spot
    assert pod['containers'][0]['resources'] == {'limits': {'google.com/tpu': chips}}
    assert pod['terminationGracePeriodSeconds'] >= 600


def test_a_bucket_is_mounted_below_its_folder(launcher):
    options = (*SLICE, '--data', 'gs://bucket/a/b/', '--', 'train', '--workdir', 'gs://b/run')
    pod = manifest(launcher.run('gke.sh', 'train', '--dry-run', *options))
    pod = pod['spec']['replicatedJobs'][0]['template']['spec']['template']
    assert pod['metadata']['annotations']['gke-gcsfuse/volumes'] == 'true'
    (volume,) = [volume for volume in pod['spec']['volumes'] if volume['name'] == 'data']
    attributes = volume['csi']['volumeAttributes']
    assert attributes == {'bucketName': 'bucket', 'mountOptions': 'implicit-dirs,only-dir=a/b'}


@needs_kubectl
def test_what_a_dry_run_prints_can_be_run(gke):
    gke.cluster.capacity = False
    script = gke.train('--dry-run').stdout
    assert not gke.cluster.requests
    script = script[: script.index('\nEND\n') + 5]
    done = subprocess.run(['bash', '-e'], input=script, env=gke.env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert list(gke.cluster.jobsets) == ['rvm']


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--name', 'Rvm'], "--name 'Rvm'"),
        (['--name', ''], "--name ''"),
        (['--name', 'a' * 41], '40 at most'),
        (['--accelerator', 'v6e'], "--accelerator 'v6e'"),
        (['--accelerator', 'v4-8'], 'not known here'),
        (['--accelerator', 'v6e-12'], 'name yours with --topology'),
        (['--accelerator', 'tpu7x-7'], 'two a chip'),
        (['--topology', '4x4'], 'not a shape of the 8 chips'),
        (['--topology', '2by4'], 'numbers are needed'),
        (['--accelerator', 'v6e-4', '--slices', '2'], 'slices of several hosts'),
        (['--slices', '0'], "--slices '0'"),
        (['--grace', 'ten'], 'whole seconds'),
        (['--env', 'A-B=c'], "--env 'A-B=c'"),
        (['--env', 'A=\a'], 'control characters'),
        (['--env', 'LIBTPU_INIT_ARGS=x', '--flags', 'vmem'], 'give one of them'),
        (['--data', '/videos'], "--data '/videos'"),
        (['--image', ''], '--image is missing'),
        (['--zones', 'a'], '--zones: unknown option'),
    ],
)
def test_a_mistake_is_named_before_the_cluster_is_asked(launcher, options, message):
    done = launcher.run('gke.sh', 'train', *SLICE, *options, '--', 'train', '--workdir', 'gs://b/run')
    assert (done.returncode, done.stdout) == (2, '')
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize('command', [['train', '--workdir', '/disk/run'], ['train'], []])
def test_a_run_needs_a_workdir_in_a_bucket(launcher, command):
    done = launcher.run('gke.sh', 'train', *SLICE, '--', *command)
    assert done.returncode == 2 and 'gs://' in done.stderr


# create and setup


@needs_kubectl
def test_create_is_content_with_nodes_for_each_slice(gke):
    for pool in 'ab':
        labels = {'cloud.google.com/gke-tpu-accelerator': 'tpu-v6e-slice', 'cloud.google.com/gke-tpu-topology': '2x4'}
        labels['cloud.google.com/gke-nodepool'] = pool
        node = {'metadata': {'labels': labels}, 'status': {'allocatable': {'google.com/tpu': '4'}}}
        gke.cluster.nodes += [node, node]
    done = gke.gke('create', *SLICE, '--slices', '2')
    assert done.returncode == 0, done.stderr
    assert 'ready: 2 of 2 slices' in done.stderr
    assert not gke.cluster.jobsets
    assert gke.gke('create', *SLICE, '--slices', '3').returncode == 75
    node['status']['allocatable']['google.com/tpu'] = '8'
    done = gke.gke('create', *SLICE)
    assert done.returncode == 2 and 'offer 8 chips, not 4; make one of ct6e-standard-4t' in done.stderr


@needs_kubectl
def test_create_prints_commands_that_gcloud_reads(gke):
    lines = []
    for accelerator in ('tpu7x-8', 'v6e-256', 'tpu7x-128'):
        done = gke.gke('create', *NAME, '--accelerator', accelerator, '--spot')
        assert done.returncode == 75
        lines += [
            line.strip() for line in done.stderr.splitlines() if ' create ' in line and line.startswith('  gcloud')
        ]
    single, wide, policy, shaped = lines
    assert '--tpu-topology' not in single + shaped and '--placement-policy=rvm-1' in shaped
    assert '--tpu-topology=16x16' in wide and '--accelerator-topology=4x4x4' in policy
    assert all('--project=shop' in line and 'pets' in line for line in (single, wide, shaped))
    if not os.path.exists('/usr/bin/gcloud'):
        pytest.skip('gcloud is not installed')
    shaped += ' --tpu-topology=4x4x4'  # the same command with the one option that only the others have
    script = f'{policy}; {shaped}'.replace('gcloud', '/usr/bin/gcloud')
    env = {**gke.env, 'CLOUDSDK_CORE_CHECK_GCE_METADATA': 'false'}
    read = subprocess.run(['bash', '-c', script], env=env, text=True, capture_output=True)
    assert read.stderr.count('active account') == 2, read.stderr  # asked after all options were read


@needs_kubectl
def test_create_says_how_jobset_is_installed(gke):
    gke.cluster.has_jobset = False
    done = gke.gke('create', *SLICE)
    assert done.returncode == 2 and 'kubernetes-sigs/jobset/releases' in done.stderr


@needs_kubectl
@pytest.mark.parametrize('verb', ['create', 'train'])
def test_a_missing_service_account_is_named_first(gke, verb):
    done = gke.gke(verb, *SLICE, '--service-account', 'writer', *gke.training)
    assert done.returncode == 2 and '--service-account writer: not there' in done.stderr
    assert not gke.cluster.jobsets


def test_setup_builds_and_pushes_the_tracked_files(gke):
    (gke.checkout / 'constraints.txt').write_text('numpy==2.4.7\n')
    (gke.checkout / 'notes.txt').write_text('')
    done = gke.gke('setup', *SLICE)
    assert done.returncode == 0, done.stderr
    assert '1 files that git does not track' in done.stderr
    build, push = (gke.root / 'docker').read_text().splitlines()
    assert build == 'build --platform=linux/amd64 --tag=pkg.dev/p/rvm_jax:1 --file=launch/Dockerfile -'
    assert push == 'push pkg.dev/p/rvm_jax:1'
    context = (gke.root / 'context').read_text().split()
    assert {'launch/Dockerfile', 'launch/gke/pod.sh'} <= set(context) and 'notes.txt' not in context


@pytest.mark.parametrize('step', ['build', 'push'])
def test_an_image_that_fails_is_not_called_ready(gke, step):
    gke.sign(f'no-{step}')
    done = gke.gke('setup', *SLICE)
    assert done.returncode == 1
    assert f'denied: {step}' in done.stderr and 'is ready' not in done.stderr


def test_the_dockerfile_copies_files_that_are_here():
    text = (REPO / 'launch' / 'Dockerfile').read_text()
    for line in re.findall(r'^COPY (.*) \S+$', text, re.MULTILINE):
        assert all((REPO / name).exists() for name in line.split())
    assert 'WORKDIR /opt/rvm_jax\n' in text and '[tpu,gcs]' in text and '--constraint constraints.txt' in text
    assert '/opt/rvm_jax/launch/gke/pod.sh' in (REPO / 'launch' / 'gke' / 'manifest.sh').read_text()


# train


@needs_kubectl
def test_words_arrive_unchanged_in_every_pod(gke):
    odd = ['--config.a=[1, "two"]', '$HOME $$ $(HOME) ${x}', "it's", 'back\\slash', 'two\nlines\t# more', '- {a: b}']
    gke.plan(runs='0@10 0 0 0\n')
    gke.training += tuple(odd)
    options = ['--env', 'A=$(RVM_LAUNCH_ID) "$B"', '--env', 'C=', '--flags', 'vmem', '--prepare', 'echo "$A" | rev']
    done = gke.train('--slices', '2', *options)
    assert done.returncode == 0, done.stderr
    assert 'finished; its nodes still cost money' in done.stderr
    for host in range(4):
        assert f'host {host} start 1: 0' in done.stdout
        seen = started(gke, host=host)
        assert seen['arguments'] == [*gke.training[1:], '--config.hosts.start_timeout=1800']
        seen = seen['environment']
        assert seen['A'] == '$(RVM_LAUNCH_ID) "$B"' and seen['C'] == ''
        assert seen['LIBTPU_INIT_ARGS'].startswith('--xla_tpu_scoped_vmem_limit_kib=')
        assert (seen['RVM_PROCESS_ID'], seen['RVM_NUM_PROCESSES']) == (str(host), '4')
        assert seen['RVM_COORDINATOR'] == 'rvm-slice-0-0.rvm:8482'
    assert done.stdout.count('"B$" )DI_HCNUAL_MVR($') == 4, done.stdout


@needs_kubectl
def test_the_cluster_starts_again_until_the_steps_are_done(gke):
    gke.cluster.capacity = False
    gke.plan(runs='75@10 1\n137@20 75\n0@30 0\n')
    # It fails once, on both hosts: one that fails earlier has the other ended before its own first try.
    both = 'until [[ -d $STANDIN/tried.0 && -d $STANDIN/tried.1 ]]; do sleep 0.01; done'
    prepare = ('--prepare', f'mkdir "$STANDIN/tried.$TPU_WORKER_ID" 2> /dev/null && {{ {both}; exit 65; }}; true')
    process = gke.start('gke.sh', 'train', *SLICE, *prepare, *gke.training)
    read_until(process.stderr, '0 of 2 hosts run, 0 have a node')
    gke.cluster.capacity = True
    message = process.communicate(timeout=300)[1]
    assert process.returncode == 0, message
    assert starts(gke) == 3
    assert gke.cluster.jobsets['rvm']['status']['restarts'] == 3
    assert 'the cluster starts it again (restart 3)' in message


@needs_kubectl
def test_a_final_code_ends_the_run(gke):
    gke.plan(runs='run@10 76\n')
    done = gke.train()
    assert done.returncode == 76, done.stderr
    assert starts(gke) == 1
    assert 'slice 0 host 1 ended with exit code 76' in done.stderr
    assert 'host 1 start 1: 76' in done.stderr


@needs_kubectl
def test_starts_without_a_new_checkpoint_are_bounded(gke):
    gke.env['RVM_LAUNCH_RETRIES'] = '1'
    gke.plan(runs='1 75\n')
    done = gke.train()
    assert done.returncode == 75
    assert starts(gke) == 1
    assert '1 starts without a new checkpoint after step 0' in done.stderr
    assert 'the same command does' in done.stderr


def test_only_starts_of_one_command_without_progress_count(store, monkeypatch):
    count_start = load(REPO / 'launch' / 'gke' / 'count_start.py')
    for name in (checksums.NAME, 'commit_success.txt'):
        files.write(f'{store.path}/checkpoints/10/{name}', b'{}')
    assert [count_start.count(store.path, 'monday', 2) for _ in range(3)] == [0, 1, -1]
    assert count_start.count(store.path, 'tuesday', 2) == 0
    for name in (checksums.NAME, 'commit_success.txt'):
        files.write(f'{store.path}/checkpoints/20/{name}', b'{}')
    assert [count_start.count(store.path, 'tuesday', 2) for _ in range(3)] == [0, 1, -1]
    monkeypatch.setattr(count_start, 'BUCKET_WAIT', 0)
    store.fail(1, 403)
    assert count_start.main(store.path, '0 1') == count_start.GIVE_UP


@needs_kubectl
def test_a_host_that_takes_itself_for_the_slice_does_not_train(gke):
    gke.cluster.worker_hostnames = 'localhost'
    done = gke.train()
    assert done.returncode == 2
    assert '2 hosts were asked for, but GKE names 1 (TPU_WORKER_HOSTNAMES=localhost)' in done.stderr
    assert not list(gke.root.glob('starts.*'))


@needs_kubectl
def test_an_image_that_cannot_be_pulled_holds_no_nodes(gke):
    gke.env['RVM_LAUNCH_PATIENCE'] = '3'
    gke.cluster.image_error = 'ImagePullBackOff'
    done = gke.train()
    assert done.returncode == 2
    assert 'slice 0 host 0: ImagePullBackOff' in done.stderr
    assert not gke.cluster.pods


@needs_kubectl
def test_the_run_goes_on_without_its_follower(gke):
    gke.plan(runs='run@10 run\n')
    process = gke.start('gke.sh', 'train', *SLICE, *gke.training)
    read_until(process.stdout, 'host 0 start 1: run')
    process.send_signal(signal.SIGINT)
    message = process.communicate(timeout=300)[1]
    assert process.returncode == 130
    assert 'the training continues in the cluster' in message
    assert [pod.phase for pod in gke.cluster.pods] == ['Running', 'Running']

    again = gke.start('gke.sh', 'train', *SLICE, '--env', 'A=b', *gke.training)
    read_until(again.stderr, 'already running; following it')
    read_until(again.stderr, 'are not those given now')
    read_until(again.stdout, 'host 1 start 1: run')
    assert len([request for request in gke.cluster.requests if request[0] == 'POST']) == 1

    status = gke.gke('status', *NAME).stdout
    assert 'rvm: RUNNING, started again 0 times' in status
    assert '8 chips in use' in status and 'chip-hours' in status
    assert 'slice 0 host 1: Running on node-0-1' in status
    of_one = gke.gke('logs', *NAME, '--worker', '1').stdout  # old packages of Google add warnings about their age
    assert of_one.endswith('host 1 start 1: run\n') and 'host 0' not in of_one
    assert gke.gke('logs', *NAME).stdout.count('start 1: run') == 2
    done = gke.gke('logs', *NAME, '--worker', '2')
    assert done.returncode == 2 and 'there are 2 hosts' in done.stderr

    assert gke.gke('delete', *NAME).returncode == 0
    message = again.communicate(timeout=300)[1]
    assert again.returncode == 75 and 'deleted by someone' in message
    assert all('saved on SIGTERM' in log.read_text() for log in (gke.root / 'cluster').glob('*.log'))


# stop, status, logs, delete


@needs_kubectl
def test_stop_saves_and_the_same_command_resumes(gke):
    gke.plan(runs='run@10 run\n0@20 0\n')
    process = gke.start('gke.sh', 'train', *SLICE, *gke.training)
    read_until(process.stdout, 'host 0 start 1: run', 'host 1 start 1: run')
    done = gke.gke('stop', *NAME)
    assert done.returncode == 0, done.stderr
    assert 'saved and ended on every host' in done.stderr
    assert 'stopped by launch/gke.sh stop' in process.communicate(timeout=300)[1]
    assert process.returncode == 75
    assert all('saved on SIGTERM' in log.read_text() for log in (gke.root / 'cluster').glob('*.log'))
    assert 'STOPPED' in gke.gke('status', *NAME).stdout
    done = gke.train()
    assert done.returncode == 0, done.stderr
    assert starts(gke) == 2
    assert 'no training is running: rvm is FINISHED' in gke.gke('stop', *NAME).stderr


@needs_kubectl
def test_what_is_not_there_is_said(gke):
    assert gke.gke('status', *NAME).stdout == 'rvm: not there\n'
    assert 'nothing to delete' in gke.gke('delete', *NAME).stderr
    for verb, code in (('stop', 2), ('logs', 2), ('delete', 0)):
        assert gke.gke(verb, *NAME).returncode == code


@needs_kubectl
@pytest.mark.parametrize('verb', ['status', 'stop', 'logs', 'delete', 'create', 'train'])
def test_a_cluster_that_does_not_answer_is_said(gke, verb):
    gke.cluster.disconnect()
    done = gke.gke(verb, *SLICE, *gke.training)
    assert done.returncode == 2
    assert "kubectl's reason is above" in done.stderr and 'refused' in done.stderr


# how the processes meet


def test_processes_meet_where_jax_sees_a_gke_host():
    with socket.socket() as held:
        held.bind(('localhost', 0))
        port = held.getsockname()[1]
    program = (
        'from rvm_jax import config\nfrom rvm_jax.distributed.connect import connect\n'
        'with connect(config.default().hosts) as group:\n    print(group.index, group.count)\n'
    )
    env = {
        **os.environ, 'PYTHONPATH': str(REPO), 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': '',
        'JAX_FORCE_TPU_INIT': '1',  # JAX takes this machine for a TPU host
        'KUBERNETES_SERVICE_HOST': '10.0.0.1', 'TPU_WORKER_HOSTNAMES': 'rvm-slice-0-0.rvm,rvm-slice-0-1.rvm',
        'RVM_COORDINATOR': f'localhost:{port}', 'RVM_NUM_PROCESSES': '2',
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', program], env={**env, 'TPU_WORKER_ID': host, 'RVM_PROCESS_ID': host},
            text=True, stdout=subprocess.PIPE,
        )
        for host in '01'
    ]  # fmt: skip
    assert [process.communicate(timeout=300)[0] for process in processes] == ['0 2\n', '1 2\n']
    assert [process.returncode for process in processes] == [0, 0]
