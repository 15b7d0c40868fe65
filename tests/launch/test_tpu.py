import os
import re
import shlex
import signal
import subprocess
import time

import pytest

pytestmark = pytest.mark.long
NAME = ('--name', 'rvm', '--zones', 'a,b', '--project', 'p')
SLICE = (*NAME, '--accelerator', 'v6e-256')
RUN = ('--', 'train', '--config', 'configs/rvm_h.py', '--workdir', 'gs://bucket/runs/h')
NO_CAPACITY = {'refuse': 'RESOURCE_EXHAUSTED: There is no more capacity in the zone'}
NEVER = {'after': None}


def starts(tpu, host=0):
    return len(tpu.lines(f'starts.{host}'))


def changes(tpu):
    """What was done to requests, in order."""
    return [f'{call[3]} {word[7:]}' for call in tpu.calls('rvm') if call[3] in ('create', 'delete')
            for word in call if word.startswith('--zone=')]  # fmt: skip


def wait_for(process, text, stream='stderr'):
    """Reads what the script prints until a line has this text; fails when it ends before."""
    read = []
    for line in getattr(process, stream):
        read.append(line)
        if text in line:
            return process
    raise AssertionError(f'ended with {process.wait()}: {"".join(read)}{process.stderr.read()}')


def following(tpu, *arguments):
    """A launcher that shows a running training."""
    return wait_for(tpu.start('tpu.sh', 'train', *SLICE, *arguments, *RUN), 'start 1', 'stdout')


def end(process):
    """What it prints until it ends."""
    return process.communicate(timeout=300)[1]


# create and delete


def test_create_waits_until_the_slice_is_there(tpu):
    done = tpu.tpu('create', *SLICE, '--spot')
    assert done.returncode == 0, done.stderr
    (call,) = tpu.calls('create')
    assert {'--accelerator-type=v6e-256', '--runtime-version=v2-alpha-tpuv6e', '--spot'} <= set(call)
    assert {'--zone=a', '--project=p', '--node-id=rvm'} <= set(call)


@pytest.mark.parametrize('why', [NO_CAPACITY, {'fail': 20}, NEVER])
def test_create_goes_to_the_next_zone_and_leaves_nothing(tpu, why):
    tpu.plan(a=[why], b=[{}])
    done = tpu.tpu('create', *SLICE, '--wait', '60')
    assert done.returncode == 0, done.stderr
    assert 'rvm is ready, in b' in done.stderr
    assert tpu.there() == ['b']


def test_create_says_which_zones_were_tried_when_none_gives(tpu):
    tpu.plan(a=[NO_CAPACITY], b=[{'fail': 20}])
    done = tpu.tpu('create', *SLICE, '--wait', '60')
    assert done.returncode == 75
    assert 'no zone of a b gave v6e-256' in done.stderr
    assert 'b: the request is FAILED: no more capacity' in done.stderr
    assert not tpu.there()


def test_create_twice_asks_once(tpu):
    tpu.tpu('create', *SLICE)
    done = tpu.tpu('create', *SLICE)
    assert done.returncode == 0
    assert 'already there, in a' in done.stderr
    assert len(tpu.calls('create')) == 1


@pytest.mark.parametrize('verb', ['create', 'train'])
def test_a_slice_of_another_type_is_not_used(tpu, verb):
    tpu.tpu('create', *NAME, '--accelerator', 'v6e-8')
    done = tpu.tpu(verb, *SLICE, *RUN)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert '--accelerator v6e-256: rvm in a is a v6e-8' in done.stderr
    assert not tpu.calls('delete') and not tpu.calls('ssh')


def test_several_slices_are_not_taken_for_one(tpu):
    tpu.tpu('create', *SLICE, '--node-count', '2')
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 2
    assert 'rvm in a has 2 slices' in done.stderr
    assert not tpu.calls('delete')


@pytest.mark.parametrize('offer', [{'preempt': 30}, {'preempt': 30, 'vanish': True}, {'preempt': 30, 'gap': 9999}])
def test_create_replaces_a_preempted_slice(tpu, offer):
    tpu.plan(a=[offer, {}])
    tpu.tpu('create', *SLICE)
    tpu.cloud.advance(200)
    assert tpu.tpu('create', *SLICE).returncode == 0
    assert changes(tpu) == ['create a', 'delete a', 'create a']


def test_create_does_not_ask_when_google_cannot_be_asked(tpu):
    tpu.sign('offline.0')
    done = tpu.tpu('create', *SLICE)
    assert done.returncode == 75
    assert 'zone a cannot be queried' in done.stderr
    assert not tpu.calls('create')


def test_a_zone_that_does_not_exist_is_a_mistake(tpu):
    done = tpu.tpu('create', *NAME, '--zones', 'a,nowhere', '--accelerator', 'v6e-256')
    assert done.returncode == 2
    assert "zone nowhere cannot be queried: PERMISSION_DENIED: Permission denied on 'locations/nowhere'" in done.stderr
    assert not tpu.calls('create')


def test_delete_twice_deletes_once(tpu):
    tpu.tpu('create', *SLICE)
    assert tpu.tpu('delete', *NAME).returncode == 0
    done = tpu.tpu('delete', *NAME)
    assert done.returncode == 0
    assert 'nothing to delete' in done.stderr
    assert len(tpu.calls('delete')) == 1


def test_delete_asks_again_until_google_has_nothing(tpu):
    tpu.plan(a=[{'refuses': 2, 'deleting': 300}])
    tpu.tpu('create', *SLICE)
    done = tpu.tpu('delete', *NAME)
    assert done.returncode == 0, done.stderr
    assert 'is not deleted yet: FAILED_PRECONDITION' in done.stderr
    assert 'rvm is deleted from a' in done.stderr and not tpu.there()


def test_a_delete_that_never_works_says_so(tpu):
    tpu.plan(a=[{'refuses': 9999}])
    tpu.tpu('create', *SLICE)
    done = tpu.tpu('delete', *NAME)
    assert done.returncode == 2
    assert 'could not be deleted in 1800 s: Google says ACTIVE; it may still cost money' in done.stderr


# never two slices


def test_a_create_that_fails_after_google_took_it_is_seen(tpu):
    tpu.plan(a=[{'lost': True}], b=[{}])
    done = tpu.tpu('create', *SLICE)
    assert done.returncode == 0, done.stderr
    assert 'create failed in a (Operation' in done.stderr and 'waiting for it' in done.stderr
    assert tpu.there() == ['a'] and changes(tpu) == ['create a']


def test_no_zone_is_asked_before_the_last_is_empty(tpu):
    tpu.plan(a=[{'fail': 20, 'refuses': 3, 'deleting': 200}], b=[{}])
    done = tpu.tpu('create', *SLICE)
    assert done.returncode == 0, done.stderr
    assert changes(tpu) == ['create a', *4 * ['delete a'], 'create b']
    assert tpu.there() == ['b']


def test_a_zone_that_cannot_be_emptied_is_the_last(tpu):
    tpu.plan(a=[{'fail': 20, 'refuses': 9999}], b=[{}])
    done = tpu.tpu('create', *SLICE)
    assert done.returncode == 75
    assert 'no other zone is asked before that' in done.stderr
    assert 'create b' not in changes(tpu)


def test_two_slices_of_one_name_are_named(tpu):
    tpu.may_be_two = True
    for zone in 'ab':
        tpu.tpu('create', *SLICE, '--zones', zone)
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 2
    assert 'rvm is in several zones: a (ACTIVE, its node READY) b (ACTIVE, its node READY)' in done.stderr
    assert tpu.tpu('delete', *NAME).returncode == 0
    assert not tpu.there()


def test_a_dead_request_elsewhere_is_in_nobodys_way(tpu):
    tpu.plan(a=[{'preempt': 30}], b=[{}])
    for zone in 'ab':
        tpu.tpu('create', *SLICE, '--zones', zone)
        tpu.cloud.advance(300)
    done = tpu.tpu('create', *SLICE)
    assert done.returncode == 0, done.stderr
    assert 'already there, in b' in done.stderr


# waiting


def test_a_slice_granted_at_the_last_moment_is_kept(tpu):
    tpu.plan(a=[{'after': 590, 'provision': 900}], b=[{}])
    done = tpu.tpu('create', *SLICE, '--wait', '600')
    assert done.returncode == 0, done.stderr
    assert 'rvm is ready, in a' in done.stderr and not tpu.calls('delete')


def test_train_asks_for_chips_until_it_gets_them(tpu):
    tpu.plan(runs='0@40 0\n', a=[*7 * [NO_CAPACITY], {}], b=[NO_CAPACITY])
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 0, done.stderr
    assert len(tpu.calls('create')) == 15
    assert done.stderr.count('asking again in') == 7
    assert tpu.cloud.now - 1800000000 > 60 * (1 + 2 + 4 + 8 + 3 * 16)


def test_lack_of_chips_after_a_preemption_is_not_a_failed_start(tpu):
    tpu.plan(runs='preempt@10 preempt\n0@40 0\n', a=[{}, *6 * [NO_CAPACITY], {}], b=[NO_CAPACITY])
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 0, done.stderr
    assert starts(tpu) == 2 and len(tpu.calls('create')) == 14


def test_a_user_can_bound_the_asking(tpu):
    tpu.plan(a=[NO_CAPACITY], b=[NEVER])
    done = tpu.tpu('train', *SLICE, '--wait', '60', '--give-up-after', '900', *RUN)
    assert done.returncode == 75
    assert 'no zone of a b gave v6e-256 in 900 s; nothing is requested any more' in done.stderr
    assert len(tpu.calls('create')) > 3 and not tpu.there()


@pytest.mark.parametrize('refusal', [
    "INVALID_ARGUMENT: the runtime version nonsense does not exist",
    "RESOURCE_EXHAUSTED: Quota limit 'TPUV6EPerProjectPerZone' has been exceeded. Limit: 0 in zone a.",
])  # fmt: skip
def test_what_google_always_refuses_is_not_asked_again(tpu, refusal):
    tpu.plan(a=[{'refuse': refusal}], b=[{'refuse': refusal}])
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 2
    assert refusal in done.stderr and 'no zone of a b accepts this request' in done.stderr
    assert len(tpu.calls('create')) == 2


@pytest.mark.parametrize(('name', 'code'), [('INT', 130), ('TERM', 75), ('HUP', 75)])
def test_a_signal_while_waiting_withdraws_the_request(tpu, name, code):
    tpu.plan(a=[NEVER])
    process = tpu.start('tpu.sh', 'train', *SLICE, '--zones', 'a', '--wait', '999999', *RUN)
    wait_for(process, 'requesting v6e-256 in a')
    tpu.until_there()
    process.send_signal(getattr(signal, f'SIG{name}'))
    stderr = end(process)
    assert process.returncode == code
    assert not tpu.there()
    if name != 'HUP':  # then nobody reads
        assert 'is withdrawn' in stderr and 'nothing is requested' in stderr


def test_a_signal_while_google_is_asked_withdraws_it(tpu):
    tpu.sign('slowcreate.0')
    process = tpu.start('tpu.sh', 'create', *SLICE)
    wait_for(process, 'requesting v6e-256 in a')
    tpu.until_there()
    process.send_signal(signal.SIGINT)
    tpu.cloud.clear('slowcreate')
    assert 'is withdrawn' in end(process)
    assert process.returncode == 130 and not tpu.there()


def test_the_request_of_somebody_else_stays(tpu):
    tpu.plan(a=[NEVER])
    first = wait_for(tpu.start('tpu.sh', 'create', *SLICE, '--wait', '999999'), 'requesting')
    tpu.until_there()
    second = wait_for(tpu.start('tpu.sh', 'create', *SLICE, '--wait', '999999'), 'is already requested in a')
    second.send_signal(signal.SIGINT)
    assert 'so the request stays' in end(second)
    assert second.returncode == 130 and tpu.there() == ['a']
    first.kill()


def test_a_request_that_somebody_withdrew_is_not_made_again(tpu):
    tpu.plan(a=[NEVER])
    process = wait_for(tpu.start('tpu.sh', 'train', *SLICE, '--wait', '999999', *RUN), 'requesting')
    tpu.until_there()
    assert tpu.tpu('delete', *NAME).returncode == 0
    assert 'rvm was deleted by someone' in end(process)
    assert process.returncode == 75 and len(tpu.calls('create')) == 1


# before anything is created


@pytest.mark.parametrize(('signs', 'message'), [
    (['loggedout'], 'gcloud has no account; log in: gcloud auth login'),
    (['nobucket'], 'gs://bucket/runs/h/checkpoints cannot be listed: bucket not found: 404.; nothing was created'),
    (['unlisted'], 'does not have storage.objects.list access; nothing was created'),
    (['passphrase', 'keyless'], 'the ssh-agent does not have'),
    (['passphrase'], 'has a passphrase, and no ssh-agent runs'),
])  # fmt: skip
def test_a_mistake_is_found_before_it_costs_a_slice(tpu, signs, message):
    for sign in signs:
        tpu.sign(f'{sign}.0')
    if 'keyless' in signs:
        (tpu.root / 'agent').touch()
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 2
    assert message in done.stderr
    assert not tpu.calls('create')


def test_the_key_is_made_and_given_to_the_agent(tpu):
    tpu.plan(runs='0 0\n')
    tpu.sign('keyless.0')
    (tpu.root / 'agent').touch()
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 0, done.stderr
    assert 'google_compute_engine, the key for the hosts' in done.stderr
    assert 'SHA256' in (tpu.root / 'agent').read_text()


def test_a_zone_without_the_accelerator_is_not_asked(tpu):
    tpu.cloud.lacks = {'a': ['v6e-256']}
    done = tpu.tpu('create', *SLICE)
    assert done.returncode == 0 and 'zone a has no v6e-256' in done.stderr
    assert changes(tpu) == ['create b']
    tpu.cloud.lacks['b'] = ['v6e-256']
    done = tpu.tpu('train', *SLICE, '--name', 'other', *RUN)
    assert done.returncode == 2 and 'none of a b has v6e-256' in done.stderr


def test_a_quota_that_is_too_small_is_named(tpu):
    tpu.cloud.quota = ['TPUV6EPreemptiblePerProjectPerZoneForTPUAPI,a,64', 'TPUV6EPerProjectPerZoneForTPUAPI,a,1']
    done = tpu.tpu('create', *SLICE, '--spot')
    assert 'zone a: the quota TPUV6EPreemptiblePerProjectPerZoneForTPUAPI is 64 chips, 256 are asked for' in done.stderr
    assert done.stderr.count('the quota') == 1


def test_a_bucket_that_fails_once_is_asked_again(tpu):
    tpu.plan(runs='0 0\n')
    tpu.sign('flakybucket.0')
    assert tpu.tpu('train', *SLICE, *RUN).returncode == 0


# setup


def test_setup_installs_the_working_tree_on_every_host(tpu):
    (tpu.checkout / 'constraints.txt').write_text('numpy==2.4.7\n')  # changed, not committed
    (tpu.checkout / 'notes.txt').write_text('')  # not tracked
    tpu.tpu('create', *SLICE)
    done = tpu.tpu('setup', *NAME)
    assert done.returncode == 0, done.stderr
    assert '1 files that git does not track' in done.stderr
    for number in range(2):
        source = tpu.host(number) / 'rvm_jax' / 'src'
        assert (source / 'constraints.txt').read_text() == 'numpy==2.4.7\n'
        assert not (source / 'notes.txt').exists()
    installs = sorted(tpu.lines('installs'))
    assert [line.split()[0] for line in installs] == ['0', '1']
    assert all('[tpu,gcs]' in line and 'constraints.txt' in line for line in installs)


def test_setup_twice_installs_once(tpu):
    tpu.tpu('create', *SLICE)
    tpu.tpu('setup', *NAME)
    assert tpu.tpu('setup', *NAME).returncode == 0
    assert len(tpu.lines('installs')) == 2


@pytest.mark.parametrize(('signs', 'again'), [(['flaky.1'], 1), (['scp1.0', 'scp1.1'], 2)])
def test_what_fails_on_one_host_is_tried_again_there(tpu, signs, again):
    for sign in signs:
        tpu.sign(sign)
    tpu.tpu('create', *SLICE)
    done = tpu.tpu('setup', *NAME)
    assert done.returncode == 0, done.stderr
    assert (
        f"host 1 of 2 (rvm, a) did not answer 'installed'; asked again in 30 s, round {again + 1} of 3" in done.stderr
    )
    assert ['--worker=all' in call for call in tpu.calls('scp')] == [True, *again * [False]]
    assert sorted(line.split()[0] for line in tpu.lines('installs')) == ['0', '1']


def test_a_host_that_fails_to_install_is_named(tpu):
    tpu.sign('broken.1')
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 1
    assert "host 1 of 2 (rvm, a) did not answer 'installed'" in done.stderr
    assert '[host 1] ERROR: No space left on device' in done.stderr
    assert len(tpu.calls('scp')) == 3 and not starts(tpu)
    assert 'the slice is still there and costs money' in done.stderr


def test_setup_does_not_disturb_a_running_training(tpu):
    tpu.plan(runs='hang@10 hang\n')
    following(tpu).kill()
    done = tpu.tpu('setup', *NAME)
    assert done.returncode == 2
    assert 'a training is running' in done.stderr


@pytest.mark.parametrize('verb', ['setup', 'train'])
def test_nothing_is_installed_while_a_training_may_run(tpu, verb):
    tpu.plan(runs='hang@10 hang\n')
    following(tpu).kill()
    tpu.sign('unreachable.0')
    copies = len(tpu.calls('scp'))
    done = tpu.tpu(verb, *SLICE, *RUN)
    assert done.returncode == 75
    assert 'whether a training runs there is not known' in done.stderr
    assert len(tpu.calls('scp')) == copies
    assert not tpu.calls('delete')


def test_prepare_runs_on_every_host_of_every_slice(tpu):
    tpu.plan(runs='preempt@10 preempt\n0@20 0\n')
    prepare = 'test -e constraints.txt; echo "$STANDIN_HOST it\'s" >> "$STANDIN/prepared"; touch ~/mounted'
    done = tpu.tpu('train', *SLICE, '--prepare', prepare, *RUN)
    assert done.returncode == 0, done.stderr
    assert sorted(tpu.lines('prepared')) == ["0 it's", "0 it's", "1 it's", "1 it's"]
    assert all((tpu.host(number) / 'mounted').exists() for number in range(2))


@pytest.mark.parametrize('verb', ['setup', 'train'])
def test_a_host_that_cannot_be_prepared_is_named(tpu, verb):
    tpu.tpu('create', *SLICE)
    prepare = 'if [[ $STANDIN_HOST == 1 ]]; then echo mount: no such device; false; fi; true'
    done = tpu.tpu(verb, *SLICE, '--prepare', prepare, *RUN)
    assert done.returncode == 1
    assert "host 1 of 2 (rvm, a) did not answer 'prepared'" in done.stderr
    assert '[host 1] mount: no such device' in done.stderr
    assert not starts(tpu)


def test_apt_waits_for_its_lock_and_prepare_is_repeated(tpu):
    tpu.sign('aptlock.1')
    tpu.tpu('create', *SLICE)
    done = tpu.tpu(
        'setup', *NAME, '--prepare', 'sudo -n apt-get -qq update && echo "$STANDIN_HOST" >> "$STANDIN/prepared"'
    )
    assert done.returncode == 0, done.stderr
    assert '[host 1] E: Could not get lock' in done.stderr
    assert sorted(tpu.lines('prepared')) == ['0', '1']
    assert '0 -n tee /etc/apt/apt.conf.d/90rvm-wait' in tpu.lines('sudo')


def test_data_is_mounted_and_named_to_the_run(tpu):
    tpu.plan(runs='75@10 75\n0@20 0\n')
    done = tpu.tpu('train', *SLICE, '--data', 'gs://videos/some/shards', *RUN)
    assert done.returncode == 0, done.stderr
    data = tpu.host(1) / 'rvm_jax/data'
    assert f'1 --implicit-dirs -o ro --only-dir=some/shards videos {data}' in tpu.lines('mounts')
    assert len(tpu.lines('mounts')) == 2  # it is still there at the second start
    assert tpu.lines('started.1.0')[-1] == '--config.data.path=~/rvm_jax/data'


def test_an_old_image_without_internet_gets_python_too(tpu, tmp_path):
    tpu.sign('old.0'), tpu.sign('old.1')
    tools = tmp_path / 'tools'
    tools.mkdir()
    host = tpu.standins / 'tpu/host'
    (tools / 'python3').write_text(
        '#!/usr/bin/env bash\nwhile (($#)); do [[ $1 != --dest ]] || touch "$2/numpy-2.whl"; shift; done\n'
    )
    (tools / 'uv').write_text(
        '#!/usr/bin/env bash\n'
        f'mkdir -p "$5/cpython-3.11/bin" && cp {host}/python3.11 {host}/rvm "$5/cpython-3.11/bin"\n'
    )
    for tool in tools.iterdir():
        tool.chmod(0o755)
    tpu.env['PATH'] = f'{tools}:{tpu.env["PATH"]}'
    tpu.tpu('create', *SLICE)
    done = tpu.tpu('setup', *NAME, '--offline')
    assert done.returncode == 0, done.stderr
    packages = tpu.host(1) / 'rvm_jax/packages'
    assert (packages / 'numpy-2.whl').exists()
    assert all(
        f'--no-index --find-links {tpu.host(line[0])}/rvm_jax/packages' in line for line in tpu.lines('installs')
    )
    assert len(tpu.lines('installs')) == 2


# train


def test_train_runs_the_same_command_on_every_host(tpu):
    tpu.plan(runs='0@10 0\n')
    awkward = '--config.data.path=gs://b/it\'s a "clip" $HOME'
    done = tpu.tpu('train', *SLICE, '--flags', 'overlap,vmem', '--env', 'TOKEN=a  b\'c"', *RUN, awkward)
    assert done.returncode == 0, done.stderr
    for number in range(2):
        folder, distributed, flags, *arguments = tpu.lines(f'started.1.{number}')
        assert folder == str(tpu.host(number) / 'rvm_jax' / 'src')
        assert distributed == 'auto'
        assert '--xla_tpu_scoped_vmem_limit_kib=98304' in flags.split()
        assert arguments == [*RUN[1:], awkward]
        assert 'TOKEN=a  b\'c"' in tpu.lines(f'environment.{number}')


def test_train_sets_no_compiler_flags_by_default(tpu):
    tpu.plan(runs='0 0\n')
    assert tpu.tpu('train', *SLICE, *RUN).returncode == 0
    assert not any(line.startswith(('LIBTPU_INIT_ARGS', 'XLA_FLAGS')) for line in tpu.lines('environment.0'))


def test_train_shows_the_log_of_process_0_once(tpu):
    tpu.plan(runs='0 0\n')
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.stdout == 'host 0 start 1: 0\n'


def test_the_logs_of_all_hosts_reach_the_workdir(tpu):
    tpu.plan(runs='75@10 137\n0@20 0\n')
    tpu.tpu('train', *SLICE, *RUN)
    logs = {path.name.rsplit('_', 2)[0]: path.read_text() for path in sorted((tpu.root / 'logs').iterdir())}
    assert set(logs) == {'host_0', 'host_1'}
    assert 'host 0 start ' in logs['host_0']


@pytest.mark.parametrize('count', [1, 2])
def test_the_host_that_has_process_0_is_followed(tpu, count):
    tpu.plan(runs='0 0\n')
    (tpu.root / 'processes').write_text('1\n0\n' if count == 1 else '1\n2\n3\n0\n')
    done = tpu.tpu('train', *SLICE, '--node-count', str(count), *RUN)
    assert done.returncode == 0, done.stderr
    shown = '1' if count == 1 else '1.1'
    assert f'host {shown} start 1: 0' in done.stdout
    assert tpu.tpu('logs', *NAME).stdout.splitlines()[-1] == f'host {shown} start 1: 0'
    assert f'host {shown}: ended with exit code 0, process 0, shows the run' in tpu.tpu('status', *NAME).stdout


def test_several_slices_train_together(tpu):
    tpu.plan(runs='preempt@10 preempt\n0@40 0\n')
    done = tpu.tpu('train', *SLICE, '--node-count', '2', '--flags', 'slices', *RUN)
    assert done.returncode == 0, done.stderr
    assert {'--node-count=2', '--node-prefix=rvm'} <= set(tpu.calls('create')[0])
    assert 'v6e-256, 2 slices' in done.stderr and '512 chips' in done.stderr
    assert all(starts(tpu, host) == 2 for host in ('0.0', '0.1', '1.0', '1.1'))


def test_a_preempted_slice_is_made_again_until_the_run_is_done(tpu):
    tpu.plan(runs='preempt@10 preempt\npreempt@20 preempt\n0@30 0\n')
    done = tpu.tpu('train', *SLICE, '--spot', *RUN)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count('its node PREEMPTED: preempted') == 2
    assert done.stdout.splitlines() == ['host 0 start 1: preempt', 'host 0 start 2: preempt', 'host 0 start 3: 0']
    assert [change[:6] for change in changes(tpu)] == ['create', 'delete', 'create', 'delete', 'create']
    assert len(tpu.lines('installs')) == 6
    lines = {(tpu.root / f'started.{attempt}.1').read_text() for attempt in (1, 2, 3)}
    assert len(lines) == 1


def test_a_node_that_is_gone_counts_though_its_request_is_active(tpu):
    tpu.plan(runs='hang@10 hang\n0@40 0\n', a=[{'preempt': 60, 'gap': 99999}, {}], b=[{}])
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 0, done.stderr
    assert 'rvm in a is ACTIVE, its node PREEMPTED: preempted or broken' in done.stderr


def test_a_slice_preempted_during_install_is_made_again(tpu):
    tpu.plan(runs='0@40 0\n', a=[{'preempt': 8}, {}])
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 0, done.stderr
    assert starts(tpu) == 1 and len(tpu.calls('create')) == 2


def test_a_preempted_run_goes_on_in_another_zone(tpu):
    tpu.plan(runs='preempt@10 preempt\n0@20 0\n', a=[{}, NO_CAPACITY], b=[{}])
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 0, done.stderr
    assert 'rvm is ready, in b' in done.stderr
    assert starts(tpu) == 2


def test_a_passing_fault_starts_again_on_the_same_slice(tpu):
    tpu.plan(runs='75@10 137\n0@20 0\n')
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 0, done.stderr
    assert len(tpu.calls('create')) == 1 and not tpu.calls('delete')
    assert starts(tpu) == 2


@pytest.mark.parametrize('codes', ['1@10 75', '1@10 1'])
def test_a_runtime_error_starts_again(tpu, codes):
    tpu.plan(runs=f'{codes}\n0@20 0\n')
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 0, done.stderr
    assert starts(tpu) == 2


def test_an_error_that_comes_back_three_times_is_final(tpu):
    tpu.plan(runs='1@10 1\n' + '1 1\n' * 9)
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 1
    assert '3 starts ended with exit code 1 and without a new checkpoint after step 10' in done.stderr
    assert starts(tpu) == 4


@pytest.mark.parametrize(('code', 'other'), [(2, 75), (76, 75), (130, 130)])
def test_a_final_error_stops_and_names_the_host(tpu, code, other):
    tpu.plan(runs=f'{other} {code}\n')
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == code
    assert f'host 1 ended with exit code {code}' in done.stderr
    assert starts(tpu) == 1


def test_the_last_words_of_a_host_that_failed_are_shown(tpu):
    tpu.plan(runs='75 2\n')
    (tpu.root / 'processes').write_text('1\n0\n')
    assert 'host 1 start 1: 2' in tpu.tpu('train', *SLICE, *RUN).stderr


def test_the_other_hosts_are_stopped_when_one_ends_for_good(tpu):
    tpu.plan(runs='hang 65\n')
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 65
    assert tpu.tpu('stop', *NAME).returncode == 0
    assert (tpu.host(0) / 'rvm_jax' / 'run' / 'exit').read_text() == '75\n'


def test_starts_without_a_new_checkpoint_are_bounded(tpu):
    tpu.plan(runs='75@10 75\n75@20 75\n' + '75 75\n' * 20)
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 75
    assert '5 starts without a new checkpoint after step 20' in done.stderr
    assert starts(tpu) == 7


def test_starts_with_unlisted_checkpoints_are_bounded_too(tpu):
    tpu.plan(runs='hang hang\n' + '75 75\n' * 20)
    process = following(tpu)
    tpu.sign('unlisted.0')
    tpu.cloud.requests['a', 'rvm'].preempted = tpu.cloud.now
    stderr = end(process)
    assert process.returncode == 75
    assert 'cannot be listed: HTTPError 403' in stderr and '5 starts without a new checkpoint' in stderr


def test_a_host_that_rebooted_is_started_again(tpu):
    tpu.plan(runs='75@10 reboot\n0 0\n')
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 0, done.stderr
    assert not tpu.calls('delete')


def test_hosts_that_hang_after_another_has_ended_are_ended_too(tpu):
    tpu.plan(runs='75@10 deaf\n0 0\n')
    done = tpu.tpu('train', *SLICE, '--grace', '60', *RUN)
    assert done.returncode == 0, done.stderr
    assert 'host 1 still runs 60 s after the first one ended' in done.stderr
    assert starts(tpu) == 2


# hosts that do not answer


def test_a_host_that_is_gone_is_named_at_once_and_replaced(tpu):
    tpu.plan(runs='hang@10 hang\n0@40 0\n', a=[{'silent': {'1': 60}}, {}])
    process = following(tpu)
    silent_since = 1800000000 + 30 + 60 + 60
    wait_for(process, 'host 1 of 2 (rvm, a) does not answer; the slice is ACTIVE')
    assert tpu.cloud.now - silent_since < 240  # two minutes, and what the clock ran while this test read
    stderr = end(process)
    assert process.returncode == 0, stderr
    assert 'host 1 of 2 is gone for' in stderr
    assert len(tpu.calls('delete')) == 1


def test_every_ssh_and_scp_has_time_limits(tpu):
    tpu.plan(runs='0 0\n')
    tpu.tpu('train', *SLICE, *RUN)
    for word in ('ssh', 'scp'):
        calls = tpu.calls(word)
        limits = {
            f'--{word}-flag=-oConnectTimeout=15',
            f'--{word}-flag=-oServerAliveInterval=15',
            f'--{word}-flag=-oBatchMode=yes',
        }
        assert calls and all(limits <= set(call) for call in calls)


def test_a_sick_slice_whose_hosts_are_silent_is_replaced(tpu):
    silent = {'0': 60, '1': 60}
    tpu.plan(runs='hang@10 hang\n0@40 0\n', a=[{'silent': silent, 'health': 'UNHEALTHY_MAINTENANCE', 'sick': 50}, {}])
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 0, done.stderr
    assert 'ACTIVE, its node READY and UNHEALTHY_MAINTENANCE' in done.stderr


def test_a_lost_connection_to_google_changes_nothing(tpu):
    tpu.plan(runs='hang@10 offline\n')
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 75
    assert 'the training continues by itself' in done.stderr
    assert not tpu.calls('delete') and len(tpu.calls('create')) == 1


def test_a_healthy_slice_that_ssh_does_not_reach_is_left_alone(tpu):
    tpu.plan(runs='hang@10 unreachable\n')
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 75
    assert 'host 0 1 over ssh, and Google says ACTIVE' in done.stderr
    assert not tpu.calls('delete') and len(tpu.calls('create')) == 1


@pytest.mark.parametrize('route', ['--internal-ip', '--tunnel-through-iap'])
def test_hosts_without_external_addresses_are_reached(tpu, route):
    tpu.plan(runs='0 0\n')
    done = tpu.tpu('train', *SLICE, route, '--user', 'me', '--ssh-flag', '-oProxyJump=x', *RUN)
    assert done.returncode == 0, done.stderr
    assert '--internal-ips' in tpu.calls('create')[0]
    assert all(
        route in call and 'me@rvm' in call and '--ssh-flag=-oProxyJump=x' in call
        for call in tpu.calls('ssh')
        if '--help' not in call
    )
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 75
    assert 'no host of rvm in a answers over ssh' in done.stderr and '--tunnel-through-iap' in done.stderr


def test_what_create_takes_is_passed_on(tpu):
    tpu.may_be_two = True
    named = (
        '--network=n --subnetwork=s --service-account=x@y --labels=a=b,c=d --data-disk=source=d,mode=read-only'.split()
    )
    given = [word for flag in named for word in flag.split('=', 1)]
    done = tpu.tpu('create', *SLICE, *given, '--reserved', '--create-flag', '--tags=t')
    assert done.returncode == 0, done.stderr
    assert {*named, '--reserved', '--tags=t'} <= set(tpu.calls('create')[0])
    done = tpu.tpu('create', *SLICE, '--name', 'flex', '--zones', 'b', '--flex-start', '7200')
    assert done.returncode == 0, done.stderr
    assert {'alpha', '--provisioning-model=flex-start', '--max-run-duration=7200s'} <= set(tpu.calls('create')[1])


# second users, dead processes


@pytest.fixture
def stranger(tpu):
    """A process that has the TPU of host 1 open, and libtpu's lock file there."""
    system = tpu.root / 'system/1'
    (system / 'dev').mkdir(parents=True), (system / 'tmp').mkdir()
    (system / 'dev/accel0').touch(), (system / 'tmp/libtpu_lockfile').touch()
    process = subprocess.Popen(['sleep', '300'], stdin=open(system / 'dev/accel0'))
    yield process
    process.kill()
    process.wait()


def test_who_uses_the_tpu_is_named_and_left_alone(tpu, stranger):
    tpu.plan(runs='0 0\n')
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 75
    assert f'[host 1] the TPU is used by process {stranger.pid} of ' in done.stderr and ': sleep 300' in done.stderr
    assert 'the TPU is in use, see above; --take ends what uses it' in done.stderr
    assert stranger.poll() is None and not starts(tpu, 1)


def test_take_ends_who_uses_the_tpu(tpu, stranger):
    tpu.plan(runs='0 0\n')
    done = tpu.tpu('train', *SLICE, '--take', *RUN)
    assert done.returncode == 0, done.stderr
    assert stranger.wait(timeout=10) == -signal.SIGTERM
    assert not (tpu.root / 'system/1/tmp/libtpu_lockfile').exists()


def test_a_second_user_name_does_not_start_a_second_training(tpu):
    tpu.plan(runs='hang@10 hang\n')
    process = following(tpu)
    (tpu.root / 'system/0/dev').mkdir(parents=True)
    (tpu.root / 'system/0/dev/accel0').touch()
    pid = (tpu.host(0) / 'rvm_jax/run/pid').read_text()
    holder = subprocess.Popen(['sleep', '300'], stdin=open(tpu.root / 'system/0/dev/accel0'))
    for number in range(2):  # another home folder, as for another user
        (tpu.host(number) / 'rvm_jax').rename(tpu.host(number) / 'of_somebody_else')
    process.kill()
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 75 and f'process {holder.pid} of' in done.stderr
    os.killpg(int(pid), 0)  # it still runs
    holder.kill()
    holder.wait()


# while it runs


def test_the_training_survives_its_launcher(tpu):
    tpu.plan(runs='hang@10 hang\n')
    process = following(tpu)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for number in range(2):
        pid = int((tpu.host(number) / 'rvm_jax/run/pid').read_text())
        assert os.getsid(pid) == pid  # no session of ssh can take it along
    again = following(tpu)
    assert starts(tpu) == 1
    again.kill()


@pytest.mark.parametrize(('name', 'code'), [('INT', 130), ('TERM', 75)])
def test_a_signal_leaves_a_running_training_alone(tpu, name, code):
    tpu.plan(runs='hang@10 hang\n')
    process = following(tpu)
    process.send_signal(getattr(signal, f'SIG{name}'))
    stderr = end(process)
    assert process.returncode == code
    assert 'the training continues by itself, and costs money (256 chips for' in stderr
    assert tpu.there() == ['a'] and not (tpu.host(0) / 'rvm_jax/run/exit').exists()


def test_stop_saves_on_every_host_and_nothing_starts_again(tpu):
    tpu.plan(runs='hang@10 hang\n')
    process = following(tpu)
    done = tpu.tpu('stop', *NAME)
    assert done.returncode == 0, done.stderr
    stderr = end(process)
    assert process.returncode == 75
    assert 'stopped by launch/tpu.sh stop' in stderr
    assert all((tpu.host(number) / 'rvm_jax/run/exit').read_text() == '75\n' for number in range(2))
    assert 'no training is running' not in done.stderr
    assert starts(tpu) == 1


def test_stop_with_nothing_running_says_so(tpu):
    tpu.tpu('create', *SLICE)
    done = tpu.tpu('stop', *NAME)
    assert done.returncode == 0
    assert 'no training is running' in done.stderr


def test_stop_between_two_starts_ends_the_launcher(tpu):
    tpu.plan(runs='75 75\n' * 9)
    process = wait_for(tpu.start('tpu.sh', 'train', *SLICE, *RUN), 'training on')
    while not (tpu.host(1) / 'rvm_jax/run/exit').exists():
        time.sleep(0.01)
    (tpu.host(0) / 'rvm_jax/run/stopped').touch(), (tpu.host(1) / 'rvm_jax/run/stopped').touch()  # what stop does
    assert 'stopped by launch/tpu.sh stop' in end(process)
    assert process.returncode == 75


def test_stop_names_a_host_that_does_not_end(tpu):
    tpu.plan(runs='hang@10 deaf\n')
    following(tpu).kill()
    done = tpu.tpu('stop', *NAME, '--grace', '30')
    assert done.returncode == 75
    assert 'still saving after 30 s: host 1' in done.stderr


def test_a_slice_deleted_on_purpose_is_not_made_again(tpu):
    tpu.plan(runs='hang@10 hang\n')
    process = following(tpu)
    assert tpu.tpu('delete', *NAME).returncode == 0
    stderr = end(process)
    assert process.returncode == 75
    assert 'rvm was deleted by someone' in stderr
    assert len(tpu.calls('create')) == 1


def test_a_slice_deleted_between_two_starts_is_not_made_again(tpu):
    tpu.plan(runs='75 75\nhang hang\n')
    process = wait_for(tpu.start('tpu.sh', 'train', *SLICE, *RUN), 'training on')
    tpu.cloud.requests['a', 'rvm'].deleted = tpu.cloud.now
    stderr = end(process)
    assert process.returncode == 75
    assert 'rvm was deleted by someone' in stderr
    assert len(tpu.calls('create')) == 1


# what it costs


@pytest.mark.parametrize(('runs', 'code'), [('0 0\n', 0), ('2 75\n', 2), ('', 1)])
def test_delete_at_end_leaves_nothing(tpu, runs, code):
    tpu.plan(runs=runs)
    if code == 1:
        tpu.sign('broken.0')
    done = tpu.tpu('train', *SLICE, '--delete-at-end', *RUN)
    assert done.returncode == code, done.stderr
    assert 'rvm is deleted from a' in done.stderr and 'chip-hours' in done.stderr.splitlines()[-1]
    assert not tpu.there()


def test_every_start_and_end_says_what_it_costs(tpu):
    tpu.plan(runs='preempt@10 preempt\n0@20 0\n')
    done = tpu.tpu('train', *SLICE, *RUN)
    assert len(re.findall(r'training on v6e-256 in a since step \d+: 2 hosts, 256 chips for 0\.\d h', done.stderr)) == 2
    assert 'the slice is still there and costs money: 256 chips for' in done.stderr
    total = float(re.search(r'finished; ([\d.]+) chip-hours', done.stderr)[1])
    assert total > 256 * 200 / 3600  # of both slices


def test_status_and_logs_show_what_each_host_does(tpu):
    assert tpu.tpu('status', *NAME).stdout == 'rvm: in none of a b\n'
    tpu.plan(runs='65 75\n')
    tpu.tpu('train', *SLICE, *RUN)
    tpu.cloud.advance(2 * 3600)
    first, kind, *hosts = tpu.tpu('status', *NAME).stdout.splitlines()
    assert first == 'rvm: ACTIVE, its node READY in a'
    assert re.fullmatch(r'v6e-256, 256 chips for 2\.\d h, 5\d\d\.\d chip-hours', kind)
    assert hosts == [
        'host 0: ended with exit code 65, process 0, shows the run',
        'host 1: ended with exit code 75, process 1',
        'runs: rvm train --config configs/rvm_h.py --workdir gs://bucket/runs/h',
    ]
    assert tpu.tpu('logs', *NAME).stdout == 'host 0 start 1: 65\n'


def test_status_names_a_host_that_does_not_answer(tpu):
    tpu.plan(a=[{'silent': {'1': 0}}])
    tpu.tpu('create', *SLICE)
    assert 'host 1: does not answer' in tpu.tpu('status', *NAME).stdout


# mistakes and dry runs


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('train', *SLICE, '--', 'train', '--workdir', '/data/run'), "--workdir '/data/run' is not reachable"),
        (('train', *SLICE), 'the command to run is missing'),
        (('create', *NAME), '--accelerator is missing'),
        (('create', *NAME, '--accelerator', 'v9x-8'), 'no runtime is known'),
        (('create', *NAME, '--accelerator', 'tpu7x-256'), 'use launch/gke.sh'),
        (('create', '--name', 'RVM', '--zones', 'a'), "--name 'RVM'"),
        (('create', '--name', 'rvm'), '--zones is missing'),
        (('create', *SLICE, '--sopt'), '--sopt: unknown option'),
        (('create', '--name'), '--name needs a value'),
        (('train', *SLICE, '--flags', 'fast', *RUN), '--flags fast: unknown set of flags'),
        (('train', *SLICE, '--env', 'XLA_FLAGS= ', *RUN), "--env 'XLA_FLAGS= ': NAME=VALUE is needed"),
        (('train', *SLICE, '--data', '/videos', *RUN), "--data '/videos': a gs:// path is needed"),
        (('train', *SLICE, '--wait', '1h', *RUN), 'are whole numbers'),
        (('launch', *SLICE), 'launch: unknown command'),
        (('setup', *NAME), 'rvm is in none of a b'),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(tpu, arguments, message):
    done = tpu.tpu(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not tpu.calls('create')


@pytest.mark.parametrize('verb', ['create', 'setup', 'train', 'status', 'logs', 'stop', 'delete'])
def test_a_dry_run_prints_commands_that_can_be_pasted(tpu, verb):
    done = tpu.tpu(verb, *SLICE, '--prepare', 'mount -a', '--dry-run', *RUN)
    assert done.returncode == 0, done.stderr
    assert not tpu.calls()
    assert not re.search(
        'installed on|prepared every|finished|already there|saved and ended|is deleted|is running', done.stderr
    )
    commands = [shlex.split(line) for line in done.stdout.splitlines() if line.startswith(('gcloud', 'git'))]
    elsewhere = ('git', 'storage', 'auth', 'quotas')
    assert commands and all('--zone=a' in words or '--zone=b' in words or set(elsewhere) & set(words)
                            for words in commands)  # fmt: skip


def test_what_a_dry_run_shows_is_what_a_run_does(tpu):
    tpu.plan(runs='0 0\n')
    arguments = ('train', *SLICE, *RUN, '--config.data.path=gs://b/two words')
    tpu.tpu('create', *SLICE)
    shown = tpu.tpu(*arguments[:1], '--dry-run', *arguments[1:]).stdout.splitlines()
    done = tpu.tpu(*arguments)
    assert done.returncode == 0, done.stderr
    ran = tpu.calls()
    (start,) = [shlex.split(line)[1:] for line in shown if 'host.sh start' in line]
    assert start in ran
    shown = [shlex.split(line)[1:] for line in shown
             if line.startswith('gcloud') and ' scp ' not in line and 'host.sh install' not in line]  # fmt: skip
    assert all(command in ran for command in shown)


def test_help_shows_examples(tpu):
    done = tpu.tpu('--help')
    assert done.returncode == 0
    assert 'examples:' in done.stdout
