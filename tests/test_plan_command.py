import pytest

from rvm_jax import cli, plan
from rvm_jax.planning import aot_process

GIB = 2**30
S = ['--config', 'configs/rvm_s.py']
SPLIT = ['--config.mesh.data=-1', '--config.mesh.fsdp=32']


@pytest.fixture
def shown(capsys):
    """shown(words) -> (rows by their first word, lines) of what `rvm plan` prints."""

    def show(*words):
        assert cli.run('plan', list(words)) == 0
        lines = capsys.readouterr().out.splitlines()
        return {line.split()[0]: ' '.join(line.split()[1:]) for line in lines if line}, lines

    return show


@pytest.fixture
def compiler(monkeypatch):
    """A stand-in for the TPU compiler; compiler.calls says for what it was asked."""

    class Compiler:
        calls = []  # noqa: RUF012
        outcome = {  # noqa: RUF012
            'compiled': {
                'devices': 256, 'device_kind': 'TPU v6 lite', 'seconds': 61.0, 'needs': 20.0 * GIB, 'traffic': 80e9,
                'collectives': {'all-gather': {'count': 640, 'size': 6e9, 'moved': 4e9, 'crossing': 0.0}},
            }
        }  # fmt: skip

        def __call__(self, config, topology, label):
            self.calls.append((config.model.size, topology))
            return self.outcome

    stand_in = Compiler()
    stand_in.calls = []
    monkeypatch.setattr(aot_process, 'compile_ahead', stand_in)
    return stand_in


def test_without_a_topology_the_recipe_is_estimated(shown):
    rows, lines = shown(*S, '--device', 'h100', '--devices', '8', '--config.batch_size=512')
    assert rows['recipe'].startswith('configs/rvm_s.py: 67,480,448 parameters, 1,000,000 steps of 512 clips')
    assert rows['on'] == '8 x h100: mesh data 8 x fsdp 1, 64 clips a device'
    assert rows['training'].startswith('511 GFLOP a clip: encoder 154, core 81')
    assert (
        rows['memory'].startswith('fits: ')
        and 'of 59.33 GiB usable a device (weights 0.25, gradients 0.25' in rows['memory']
    )
    assert 'compute' in rows['roofline'] and 'ms; compute limits it, at 40% of the peak' in rows['step']
    assert rows['run'].split()[1] in ('days,', 'hours,') and 'JPEG shards' in rows['input']
    assert '208' in rows['input'] and 'estimate' in rows['source']
    assert len(lines) < 12 and max(map(len, lines)) < 140


def test_a_frozen_encoder_is_named_and_costs_its_forward_pass(shown):
    rows, lines = shown('--config', 'configs/dinov3_rvmrnn.py', '--device', 'v6e', '--devices', '16')
    assert rows['recipe'].startswith('configs/dinov3_rvmrnn.py: 432,597,248 parameters, 100,000 steps of 64 clips')
    assert rows['frozen'] == '303,129,600 parameters, of the encoder; 129,467,648 are trained'
    assert rows['encoder'].startswith('dinov3, patch 16') and rows['taps'].startswith('4_regular')
    assert rows['target'].startswith('light_target') and rows['core'].startswith('rvmrnn')
    assert rows['training'] == '1,516 GFLOP a clip: encoder 659, adapters 103, core 473, target 2.08, decoder 279'
    assert '(weights 1.05, gradients 0.48, optimizer 0.96, activations ' in rows['memory']
    assert len(lines) < 16 and max(map(len, lines)) < 140


def test_utilization_sets_the_pace_until_memory_does(shown):
    slow = shown(*S, '--utilization', '0.01')[0]['step']
    fast = shown(*S, '--utilization', '1')[0]['step']
    assert slow.endswith('ms; compute limits it, at 1% of the peak FLOP/s')
    assert 'HBM limits it, at its peak rate; compute reaches ' in fast and ' 100%' not in fast


def test_a_batch_takes_as_many_devices_as_divide_it(shown):
    assert shown('--config', 'configs/tiny.py')[0]['on'].startswith('8 x v6e: ')


@pytest.mark.parametrize(
    ('days', 'text'),
    [(2.63, '2.63 days'), (0.5, '12 hours'), (0.01, '14.4 minutes'), (2e-6, '0.173 seconds'), (1e-4, '8.64 seconds')],
)
def test_a_run_is_told_in_a_unit_that_can_be_read(days, text):
    assert plan._duration(days) == text


def test_weights_on_gpus_are_split_within_a_host(shown):
    rows, _ = shown('--config', 'configs/rvm_h.py', '--device', 'h100', '--devices', '32')
    assert rows['on'].startswith('32 x h100: mesh data 4 x fsdp 8, ')


def test_what_does_not_fit_says_by_how_much_and_what_would(shown):
    rows, lines = shown('--config', 'configs/rvm_l.py', '--device', 'v5e', '--devices', '16', '--config.mesh.fsdp=1',
                        '--config.mesh.data=-1')  # fmt: skip
    assert 'GiB too much' in rows['memory'] and rows['memory'].startswith('does not fit')
    suggestions = lines[lines.index('would fit, by estimate:') + 1 :]
    assert suggestions and all(line.startswith('  --config.') and line.endswith('GiB)') for line in suggestions)


def test_a_topology_is_compiled(shown, compiler):
    rows, _ = shown('--config', 'configs/rvm_h.py', '--topology', 'v6e:16x16', *SPLIT)
    assert compiler.calls == [('h', 'v6e:16x16')]
    assert rows['on'].startswith('v6e:16x16, 256 x TPU v6 lite: mesh data 8 x fsdp 32, 8 clips')
    assert rows['memory'].startswith('fits: 20.00 of 31.25 GiB usable a device (weights 0.09, ')
    assert rows['collectives'] == 'a step: all-gather 640 x, 6.00 GB' and 'note' not in rows
    assert rows['source'].startswith('compiled in 61 s')


def test_gpus_are_compiled_host_by_host(shown, compiler):
    gpus = {'devices': 32, 'device_kind': 'NVIDIA H100 80GB HBM3'}
    compiler.outcome = {'compiled': compiler.outcome['compiled'] | gpus}
    rows, _ = shown('--config', 'configs/rvm_h.py', '--topology', 'h100:4x8')
    assert compiler.calls == [('h', 'h100:4x8')]
    assert rows['on'] == 'h100:4x8, 32 x NVIDIA H100 80GB HBM3: mesh data 4 x fsdp 8, 64 clips a device'
    assert rows['memory'].startswith('fits: 20.00 of 59.33 GiB usable a device (weights 0.')
    assert rows['roofline'].startswith('ms a step, each at its peak rate: compute ')


def test_weights_summed_instead_of_gathered_are_pointed_out(shown, compiler):
    kinds = compiler.outcome['compiled'].copy() | {
        'collectives': {'all-reduce': {'count': 1, 'size': 1e9, 'moved': 2e9, 'crossing': 0.0}}
    }
    compiler.outcome = {'compiled': kinds}
    rows, _ = shown('--config', 'configs/rvm_h.py', '--topology', 'v6e:16x16', *SPLIT)
    assert rows['note'].endswith('try mesh.data=-1 and a smaller mesh.fsdp')


def test_a_shortage_is_told_without_times(shown, compiler):
    compiler.outcome = {'shortage': {'devices': 256, 'device_kind': 'TPU v6 lite', 'seconds': 9.0, 'needs': 40.0 * GIB,
                                     'has': 31.25 * GIB}}  # fmt: skip
    rows, lines = shown(*S, '--topology', 'v6e:16x16')
    assert rows['memory'].startswith('does not fit: 40.75 of 31.25 GiB usable a device, 9.5 GiB too much')
    assert 'roofline' not in rows and 'would fit, by estimate:' in lines


def test_several_recipes_and_places_give_a_table(shown, compiler):
    words = ('--config', 'configs/rvm_s.py', 'configs/rvm_h.py', '--topology', 'v6e:16x16', '--device', 'h100',
             '--devices', '32', '64')  # fmt: skip
    _, lines = shown(*words)
    assert len({len(line) for line in lines}) == 1  # aligned
    assert [line.split()[:4] for line in lines[1:]] == [
        ['rvm_s', 'v6e:16x16', '8', '20.0'], ['rvm_h', 'v6e:16x16', '8', '20.0'],
        ['rvm_s', '32', 'x', 'h100'], ['rvm_s', '64', 'x', 'h100'],
        ['rvm_h', '32', 'x', 'h100'], ['rvm_h', '64', 'x', 'h100'],
    ]  # fmt: skip
    _, marked = shown(*words, '--markdown')
    assert marked[1].startswith('| --- | --- | ---: |') and len(marked) == len(lines) + 1
    assert {line.count('|') for line in marked} == {len(plan.HEADER) + 1}


def test_one_line_of_a_table_that_cannot_be_timed_is_dashes(shown, compiler):
    compiler.outcome = {'compiled': compiler.outcome['compiled'] | {'device_kind': 'TPU v9'}}
    _, lines = shown(*S, '--topology', 'v9:16x16', '--markdown')
    assert lines[2].startswith('| rvm_s | v9:16x16 | 8 | 20.0 | yes | - | - |')


@pytest.mark.parametrize(
    ('words', 'reason'),
    [
        (['--config', 'configs/none.py'], 'does not exist'),
        ([*S, '--config.stepz=1'], 'did you mean steps?'),
        (
            [*S, '--device', 'b300'],
            '--device b300: is not a device with known figures; take one of v5e, v5p, v6e, a100, h100',
        ),
        ([*S, '--topology', 'h100:12'], '--topology h100:12: is not hosts x GPUs of a host, which has at most 8'),
        ([*S, '--topology', 'a100'], 'give one such as a100:1, a100:8 or a100:4x8'),
        ([*S, '--topology', 'h100:3x8'], 'config.batch_size=2048: cannot be split evenly over 24 devices'),
        ([*S, '--topology', 'h100:4x8', '--config.mesh.data=2', '--config.mesh.fsdp=16'], 'across 4 slices or hosts'),
        ([*S, '--devices', '0'], '--devices 0: is a number of devices; give 1 or more'),
        ([*S, '--devices', '3'], 'config.batch_size=2048: cannot be split evenly over 3 devices; take a multiple of 3'),
        ([*S, '--utilization', '40'], '--utilization 40: is a share of the peak; give 0.4 or the like'),
        ([*S, '--topology', 'v6e:4x5'], 'config.batch_size=2048: cannot be split evenly over 20 devices'),
        ([*S, '--config.mesh.data=3', '--topology', 'v6e:4x4'], 'data x fsdp must be 16'),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_compiled(capsys, compiler, words, reason):
    assert cli.run('plan', words) == 2
    message = capsys.readouterr().err
    assert reason in message and message.count('\n') == 1 and compiler.calls == []
