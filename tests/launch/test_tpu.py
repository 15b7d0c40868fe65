import os
import re
import shlex
import signal

import pytest

NAME = ('--name', 'rvm', '--zones', 'a,b', '--project', 'p')
SLICE = (*NAME, '--accelerator', 'v6e-256')
RUN = ('--', 'train', '--config', 'configs/rvm_h.py', '--workdir', 'gs://bucket/runs/h')


@pytest.fixture
def tpu(launcher):
    launcher.tpu = lambda verb, *arguments: launcher.run('tpu.sh', verb, *arguments)
    return launcher


def starts(tpu):
    return len((tpu.root / 'starts.0').read_text().split()) if (tpu.root / 'starts.0').exists() else 0


# create and delete


def test_create_waits_until_the_slice_is_there(tpu):
    done = tpu.tpu('create', *SLICE, '--spot')
    assert done.returncode == 0, done.stderr
    (call,) = tpu.calls('create')
    assert {'--accelerator-type=v6e-256', '--runtime-version=v2-alpha-tpuv6e', '--spot'} <= set(call)
    assert {'--zone=a', '--project=p', '--node-id=rvm'} <= set(call)


@pytest.mark.parametrize('why', ['refuses', 'fails', 'waits'])
def test_create_goes_to_the_next_zone_and_leaves_nothing_behind(tpu, why):
    tpu.plan(a=why, b='gives')
    done = tpu.tpu('create', *SLICE, '--wait', '0')
    assert done.returncode == 0, done.stderr
    assert 'rvm is ready, in b' in done.stderr
    assert not (tpu.root / 'a.json').exists()


def test_create_says_which_zones_were_tried_when_none_gives(tpu):
    tpu.plan(a='refuses', b='fails')
    done = tpu.tpu('create', *SLICE, '--wait', '0')
    assert done.returncode == 75
    assert 'no zone of a b gave v6e-256' in done.stderr
    assert not list(tpu.root.glob('[ab].json'))


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


def test_create_replaces_a_preempted_slice(tpu):
    (tpu.root / 'a.json').write_text('{"name": "rvm", "state": "SUSPENDED"}')
    assert tpu.tpu('create', *SLICE).returncode == 0
    assert [call[3] for call in tpu.calls('rvm')] == ['delete', 'create']


def test_create_does_not_ask_when_google_cannot_be_asked(tpu):
    tpu.sign('offline.0')
    done = tpu.tpu('create', *SLICE)
    assert done.returncode == 2
    assert 'zone a cannot be queried' in done.stderr
    assert not tpu.calls('create')


def test_delete_twice_deletes_once(tpu):
    tpu.tpu('create', *SLICE)
    assert tpu.tpu('delete', *NAME).returncode == 0
    done = tpu.tpu('delete', *NAME)
    assert done.returncode == 0
    assert 'nothing to delete' in done.stderr
    assert len(tpu.calls('delete')) == 1


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
    installs = (tpu.root / 'installs').read_text().splitlines()
    assert [line.split()[0] for line in installs] == ['0', '1']
    assert all('[tpu,gcs]' in line and 'constraints.txt' in line for line in installs)


def test_setup_twice_installs_once(tpu):
    tpu.tpu('create', *SLICE)
    tpu.tpu('setup', *NAME)
    assert tpu.tpu('setup', *NAME).returncode == 0
    assert len((tpu.root / 'installs').read_text().splitlines()) == 2


def test_a_host_that_fails_to_install_is_named(tpu):
    tpu.sign('broken.1')
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 1
    assert "host 1 of 2 (rvm, a) did not answer 'installed'" in done.stderr
    assert '[host 1] ERROR: No space left on device' in done.stderr
    assert not starts(tpu)


def test_setup_does_not_disturb_a_running_training(tpu):
    tpu.plan(runs='hang@10 hang\n')
    follow_until(tpu.start('tpu.sh', 'train', *SLICE, *RUN), 'start 1').kill()
    done = tpu.tpu('setup', *NAME)
    assert done.returncode == 2
    assert 'a training is running' in done.stderr


@pytest.mark.parametrize('verb', ['setup', 'train'])
def test_nothing_is_installed_while_a_training_may_run(tpu, verb):
    tpu.env['RVM_LAUNCH_PATIENCE'] = '2'
    tpu.plan(runs='hang@10 hang\n')
    follow_until(tpu.start('tpu.sh', 'train', *SLICE, *RUN), 'start 1').kill()
    tpu.sign('gone.1')
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
    assert sorted((tpu.root / 'prepared').read_text().splitlines()) == ["0 it's", "0 it's", "1 it's", "1 it's"]
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


# train


def test_train_runs_the_same_command_on_every_host(tpu):
    tpu.plan(runs='0@10 0\n')
    awkward = '--config.data.path=gs://b/it\'s a "clip" $HOME'
    done = tpu.tpu('train', *SLICE, '--flags', 'overlap,vmem', *RUN, awkward)
    assert done.returncode == 0, done.stderr
    for number in range(2):
        folder, distributed, flags, *arguments = (tpu.root / f'started.1.{number}').read_text().splitlines()
        assert folder == str(tpu.host(number) / 'rvm_jax' / 'src')
        assert distributed == 'auto'
        assert '--xla_tpu_scoped_vmem_limit_kib=98304' in flags.split()
        assert arguments == [*RUN[1:], awkward]


def test_train_sets_no_compiler_flags_by_default(tpu):
    tpu.plan(runs='0 0\n')
    tpu.tpu('train', *SLICE, *RUN)
    assert (tpu.root / 'started.1.0').read_text().splitlines()[2] == ''


def test_train_shows_the_first_hosts_log_once(tpu):
    tpu.plan(runs='0 0\n')
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.stdout == 'host 0 start 1: 0\n'


def test_a_preempted_slice_is_made_again_until_the_run_is_done(tpu):
    tpu.plan(runs='preempt@10 preempt\npreempt@20 preempt\n0@30 0\n')
    done = tpu.tpu('train', *SLICE, '--spot', *RUN)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count('is SUSPENDED: preempted') == 2
    assert done.stdout.splitlines() == ['host 0 start 1: preempt', 'host 0 start 2: preempt', 'host 0 start 3: 0']
    changes = [call[3] for call in tpu.calls('rvm') if call[2] == 'queued-resources']
    assert changes == ['create', 'delete', 'create', 'delete', 'create']
    assert len((tpu.root / 'installs').read_text().splitlines()) == 6
    lines = {(tpu.root / f'started.{attempt}.1').read_text() for attempt in (1, 2, 3)}
    assert len(lines) == 1


def test_a_preempted_run_goes_on_in_another_zone(tpu):
    tpu.plan(runs='preempt@10 preempt\n0@20 0\n', a='once', b='gives')
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


@pytest.mark.parametrize(('code', 'other'), [(2, 75), (76, 75), (130, 130), (1, 1)])
def test_a_final_error_stops_and_names_the_host(tpu, code, other):
    tpu.plan(runs=f'{other} {code}\n')
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == code
    assert f'host 1 ended with exit code {code}' in done.stderr
    assert f'start 1: {code}' in done.stderr  # its log
    assert starts(tpu) == 1


def test_the_other_hosts_are_stopped_when_one_ends_for_good(tpu):
    tpu.plan(runs='hang 65\n')
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 65
    assert tpu.tpu('stop', *NAME).returncode == 0
    assert (tpu.host(0) / 'rvm_jax' / 'run' / 'exit').read_text() == '75\n'


def test_starts_without_a_new_checkpoint_are_bounded(tpu):
    tpu.env['RVM_LAUNCH_RETRIES'] = '2'
    tpu.plan(runs='75@10 75\n75@20 75\n' + '75 75\n' * 9)
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 75
    assert '2 starts without a new checkpoint after step 20' in done.stderr
    assert starts(tpu) == 4


def test_a_host_that_rebooted_is_started_again(tpu):
    tpu.plan(runs='75@10 reboot\n0 0\n')
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 0, done.stderr
    assert not tpu.calls('delete')


def test_a_slice_with_a_host_that_is_gone_is_made_again(tpu):
    tpu.env['RVM_LAUNCH_PATIENCE'] = '2'
    tpu.plan(runs='hang@10 gone\n0 0\n')
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 0, done.stderr
    assert '1 of 2 hosts are gone while the others answer' in done.stderr
    assert len(tpu.calls('delete')) == 1


def test_hosts_that_hang_after_another_has_ended_are_ended_too(tpu):
    tpu.plan(runs='75@10 deaf\n0 0\n')
    done = tpu.tpu('train', *SLICE, '--grace', '0', *RUN)
    assert done.returncode == 0, done.stderr
    assert 'some hosts are still running' in done.stderr
    assert starts(tpu) == 2


def test_a_lost_connection_to_google_changes_nothing(tpu):
    tpu.env['RVM_LAUNCH_PATIENCE'] = '3'
    tpu.plan(runs='hang@10 offline\n')
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 75
    assert 'the training continues by itself' in done.stderr
    assert not tpu.calls('delete') and len(tpu.calls('create')) == 1


def test_a_healthy_slice_that_ssh_does_not_reach_is_left_alone(tpu):
    tpu.env['RVM_LAUNCH_PATIENCE'] = '3'
    tpu.plan(runs='hang@10 unreachable\n')
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 75
    assert '0 of 2 hosts over ssh, and Google says ACTIVE' in done.stderr
    assert not tpu.calls('delete') and len(tpu.calls('create')) == 1


def test_starts_with_unlisted_checkpoints_do_not_count(tpu):
    tpu.env['RVM_LAUNCH_RETRIES'] = '2'
    tpu.sign('unlisted.0')
    tpu.plan(runs='75 75\n' * 3 + '0 0\n')
    done = tpu.tpu('train', *SLICE, *RUN)
    assert done.returncode == 0, done.stderr
    assert 'cannot be listed: ERROR: (gcloud) does not have storage.objects.list access' in done.stderr
    assert starts(tpu) == 4


def test_the_training_survives_its_launcher(tpu):
    tpu.plan(runs='hang@10 hang\n')
    process = follow_until(tpu.start('tpu.sh', 'train', *SLICE, *RUN), 'start 1')
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for number in range(2):
        pid = int((tpu.host(number) / 'rvm_jax/run/pid').read_text())
        assert os.getsid(pid) == pid  # no session of ssh can take it along
    again = follow_until(tpu.start('tpu.sh', 'train', *SLICE, *RUN), 'start 1')
    assert starts(tpu) == 1
    again.kill()


def test_stop_saves_on_every_host_and_nothing_starts_again(tpu):
    tpu.plan(runs='hang@10 hang\n')
    process = follow_until(tpu.start('tpu.sh', 'train', *SLICE, *RUN), 'start 1')
    done = tpu.tpu('stop', *NAME)
    assert done.returncode == 0, done.stderr
    stderr = process.communicate(timeout=60)[1]
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


def test_stop_names_a_host_that_does_not_end(tpu):
    tpu.plan(runs='hang@10 deaf\n')
    follow_until(tpu.start('tpu.sh', 'train', *SLICE, *RUN), 'start 1').kill()
    done = tpu.tpu('stop', *NAME, '--grace', '2')
    assert done.returncode == 75
    assert 'still saving after 2 s: host 1' in done.stderr


def test_a_slice_deleted_on_purpose_is_not_made_again(tpu):
    tpu.plan(runs='hang@10 hang\n')
    process = follow_until(tpu.start('tpu.sh', 'train', *SLICE, *RUN), 'start 1')
    assert tpu.tpu('delete', *NAME).returncode == 0
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 75
    assert 'rvm was deleted by someone' in stderr
    assert len(tpu.calls('create')) == 1


def test_a_slice_deleted_between_two_starts_is_not_made_again(tpu):
    tpu.plan(runs='75 75\nhang hang\n')
    tpu.env['RVM_LAUNCH_POLL'] = '1'
    process = tpu.start('tpu.sh', 'train', *SLICE, *RUN)
    for line in process.stderr:
        if 'starting again' in line:
            break
    assert tpu.tpu('delete', *NAME).returncode == 0
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 75
    assert 'rvm was deleted by someone' in stderr
    assert len(tpu.calls('create')) == 1


def test_status_and_logs_show_what_each_host_does(tpu):
    assert tpu.tpu('status', *NAME).stdout == 'rvm: in none of a b\n'
    tpu.plan(runs='65 75\n')
    tpu.tpu('train', *SLICE, *RUN)
    assert tpu.tpu('status', *NAME).stdout == 'rvm: ACTIVE in a\nhost 0: ended 65\nhost 1: ended 75\n'
    assert tpu.tpu('logs', *NAME, '--worker', '1').stdout == 'host 1 start 1: 75\n'


# mistakes and dry runs


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('train', *SLICE, '--', 'train', '--workdir', '/data/run'), "--workdir '/data/run' is not reachable"),
        (('train', *SLICE), 'the command to run is missing'),
        (('create', *NAME), '--accelerator is missing'),
        (('create', *NAME, '--accelerator', 'v9x-8'), 'no runtime is known'),
        (('create', '--name', 'RVM', '--zones', 'a'), "--name 'RVM'"),
        (('create', '--name', 'rvm'), '--zones is missing'),
        (('create', *SLICE, '--sopt'), '--sopt: unknown option'),
        (('create', '--name'), '--name needs a value'),
        (('train', *SLICE, '--flags', 'fast', *RUN), '--flags fast: unknown set of flags'),
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
    assert commands and all('--zone=a' in words or '--zone=b' in words or words[0] == 'git' or 'storage' in words
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
    shown = [shlex.split(line)[1:] for line in shown if line.startswith('gcloud') and ' scp ' not in line]
    assert all(command in ran for command in shown)


def test_help_shows_examples(tpu):
    done = tpu.tpu('--help')
    assert done.returncode == 0
    assert 'examples:' in done.stdout


def follow_until(process, text):
    """Reads what the script prints until a line has this text; fails when it ends before."""
    for line in process.stdout:
        if text in line:
            return process
    raise AssertionError(f'ended with {process.wait()}: {process.stderr.read()}')
