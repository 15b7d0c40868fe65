"""launch/local.sh with a stand-in for rvm: what it starts, hands on, shows, and leaves behind."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / 'launch' / 'local.sh'


@pytest.fixture
def launch(tmp_path):
    """launch(what rvm does, *options) -> the started launcher; rvm is that piece of bash, with $i its number."""

    def start(body, *options):
        (tmp_path / 'launch').mkdir(exist_ok=True)
        shutil.copy(SCRIPT, tmp_path / 'launch' / 'local.sh')  # so that there is no .venv beside it
        rvm = tmp_path / 'bin' / 'rvm'
        rvm.parent.mkdir(exist_ok=True)
        rvm.write_text(f'#!/usr/bin/env bash\ni=$RVM_PROCESS_ID\n{body}\n')
        rvm.chmod(0o755)
        env = os.environ | {'PATH': f'{rvm.parent}:{os.environ["PATH"]}', 'MARK': str(tmp_path)}
        command = [tmp_path / 'launch' / 'local.sh', *options]
        return subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    return start


def end(process):
    out, err = process.communicate(timeout=60)
    return process.returncode, sorted(out.splitlines()), err


def wait_for(path):
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f'{path} did not appear')


def test_each_process_knows_its_number_and_where_to_meet(launch):
    body = 'echo "$i of $RVM_NUM_PROCESSES: $* at ${RVM_COORDINATOR%:*} on $JAX_PLATFORMS ${XLA_FLAGS##* }"'
    code, lines, _ = end(launch(body, '--processes', '3', '--devices', '2', '--', 'train', '--workdir', 'a b'))
    flag = '--xla_force_host_platform_device_count=2'
    said = [f'{i} of 3: train --workdir a b at 127.0.0.1 on cpu {flag}' for i in range(3)]
    assert lines == sorted([said[0], f'[1] {said[1]}', f'[2] {said[2]}'])
    assert code == 0


def test_values_can_follow_an_equals_sign(launch):
    code, lines, _ = end(launch('echo "${XLA_FLAGS##* }"', '--processes=1', '--devices=3', '--grace=9', '--', 'train'))
    assert (code, lines) == (0, ['--xla_force_host_platform_device_count=3'])


def test_the_number_of_devices_is_the_one_that_is_given(launch, monkeypatch):
    monkeypatch.setenv('JAX_NUM_CPU_DEVICES', '5')
    monkeypatch.setenv('XLA_FLAGS', ' ')
    body = f'{sys.executable} -c "import jax; print(len(jax.devices()))"'
    assert end(launch(body, '--processes', '1', '--devices', '2', '--', 'train'))[:2] == (0, ['2'])


@pytest.mark.parametrize(
    'codes, expected',
    [
        ((0, 0), 0), ((75, 75), 75), ((75, 2), 2), ((65, 76), 65), ((75, 76), 76), ((75, 130), 130), ((1, 75), 1),
        ((0, 75), 75),
    ],
)  # fmt: skip
def test_the_most_telling_exit_code_is_its_own(launch, codes, expected):
    body = f'codes=({" ".join(map(str, codes))}); exit "${{codes[$i]}}"'
    assert end(launch(body, '--', 'train'))[0] == expected


@pytest.mark.parametrize('number, code', [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_reaches_all_processes(launch, tmp_path, number, code):
    name = number.name.removeprefix('SIG')
    body = f"""trap 'echo got it; exit {code}' {name}
        touch "$MARK/ready$i"
        while :; do sleep 0.1; done"""
    process = launch(body, '--', 'train')
    wait_for(tmp_path / 'ready0')
    wait_for(tmp_path / 'ready1')
    process.send_signal(number)
    assert end(process)[:2] == (code, ['[1] got it', 'got it'])


def test_a_signal_while_starting_reaches_all_processes(launch, tmp_path):
    body = 'trap "exit 75" TERM; touch "$MARK/ready$i"; for _ in {1..200}; do sleep 0.1; done; exit 9'
    process = launch(body, '--processes', '60', '--', 'train')
    wait_for(tmp_path / 'ready0')
    process.terminate()
    assert end(process)[0] == 75


def test_an_rvm_without_its_python_is_named(launch, tmp_path):
    binary = tmp_path / '.venv' / 'bin' / 'rvm'
    binary.parent.mkdir(parents=True)
    binary.write_text('#!/moved/python\n')
    binary.chmod(0o755)
    code, _, err = end(launch('exit 0', '--processes', '1', '--', 'train'))
    assert code == 2
    assert f'{binary}: cannot be started, the reason is above' in err


def test_a_process_that_does_not_end_is_killed_with_its_children(launch, tmp_path):
    body = """if ((i == 0)); then kill -KILL $$; fi
        trap '' TERM INT
        bash -c 'trap "" TERM INT; echo $$ > "$MARK/child"; while :; do sleep 0.1; done' &
        wait"""
    code, _, err = end(launch(body, '--grace', '1', '--', 'train'))
    assert code == 75
    assert 'process 0 was ended by SIGKILL' in err
    assert '1 of 2 processes still run 1 s after one ended early: killed' in err
    child = int((tmp_path / 'child').read_text())
    for _ in range(100):
        if not os.path.exists(f'/proc/{child}'):
            return
        time.sleep(0.05)
    raise AssertionError('the child of a process outlived it')


@pytest.mark.parametrize(
    'options, message',
    [
        (['--processes', '0', '--', 'train'], "--processes '0': is not a whole number from 1 to 9999"),
        (['--processes'], '--processes: has no value'),
        (['--grace=', '--', 'train'], "--grace '': is not a whole number"),
        (['--devices', ' ', '--', 'train'], "--devices ' ': is not a whole number"),
        (['--processes', '--devices', '2'], "--processes '--devices': is not a whole number"),
        (['--procs=2', '--', 'train'], '--procs=2: is not known'),
        (['--procs', '2'], '--procs: is not known'),
        (['--processes', '2'], 'no command; give one after --'),
    ],
)
def test_mistakes_are_one_line(launch, options, message):
    code, lines, err = end(launch('exit 0', *options))
    assert (code, lines) == (2, [])
    assert err.startswith(f'launch/local.sh: {message}')
    assert len(err.splitlines()) == 1


def test_shellcheck_finds_nothing_in_it():
    shellcheck = pathlib.Path(sys.executable).with_name('shellcheck')
    done = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
