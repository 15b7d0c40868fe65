import pytest

from rvm_jax import config as configs
from rvm_jax.conversion.frozen import resolve
from rvm_jax.planning import chips, estimate, forecast

GIB = 2**30


def planned(config):
    """What functions of a plan take first: a config and its Architecture."""
    return config, resolve(config)[0]


def recipe(size='s', *overrides):
    return configs.load(f'configs/rvm_{size}.py', ['mesh.data=-1', 'mesh.fsdp=1', *overrides])


def changed(config, changes):
    config = config.copy_and_resolve_references()
    for key, value in changes:
        configs.set_value(config, key, str(value))
    return config


def compiled_outcome(**figures):
    found = {'devices': 4, 'device_kind': 'TPU v6 lite', 'seconds': 30.0, 'needs': 9.0 * GIB, 'traffic': 100e9}
    found['collectives'] = {'all-reduce': {'count': 5, 'size': 4e9, 'moved': 8e9, 'crossing': 0.0}}
    return {'compiled': found | figures}


def test_a_step_is_as_slow_as_the_slowest_of_what_it_needs():
    found = forecast.estimated(*planned(recipe()), 'v6e', 256)._replace(
        seconds={'compute': 0.01, 'memory': 0.02, 'links': 0.03, 'input': 0.5}
    )
    assert found.step_seconds(0.5) == 0.03 and found.step_seconds(0.1) == pytest.approx(0.1)
    assert found.limit(0.5) == 'links' and found.limit(0.1) == 'compute'  # what decides it; cores can be bought
    assert found.days(0.1) == pytest.approx(1_000_000 * 0.1 / 86400)
    assert found.cores(0.1) == {'video of GOP 32': 539, 'JPEG shards': 74}  # 20,480 clips a second
    assert found.host_cores == 256 / 4 * 180


def test_decoding_takes_the_cores_of_all_hosts():
    seconds = forecast.estimated(*planned(recipe()), 'h100', 16).seconds
    assert seconds['input'] == pytest.approx(2048 / (2 * 208 * 38))
    seconds = forecast.estimated(*planned(recipe()), 'v6e', 16).seconds
    assert seconds['input'] == pytest.approx(2048 / (4 * 180 * 38))


def test_an_estimate_close_to_the_memory_is_in_doubt():
    found = forecast.estimated(*planned(recipe()), 'v6e', 256)
    assert found.fits == 'yes' and found.remedies == ()
    assert found._replace(has=found.needs * 1.1).fits == 'maybe'
    assert found._replace(has=found.needs * 0.9).fits == 'no'
    assert found._replace(has=found.needs * 1.1, compile_seconds=1.0).fits == 'yes'  # the compiler knows


def test_figures_of_a_compiled_program_become_seconds():
    found = forecast.compiled(*planned(recipe('s', 'batch_size=64')), 'v6e:2x2', compiled_outcome())
    v6e = chips.CHIPS['v6e']
    assert found.seconds['memory'] == 100e9 / v6e.memory_rate and found.seconds['links'] == 8e9 / v6e.link_rate
    assert found.needs == pytest.approx(9 * GIB) and found.fits == 'yes' and found.has == v6e.memory
    assert set(found.parts) == {'weights', 'optimizer', 'activations, gradients, program'}


def test_what_crosses_hosts_of_gpus_takes_their_network():
    kinds = {'all-reduce': {'count': 5, 'size': 4e9, 'moved': 8e9, 'crossing': 1e9}}
    outcome = compiled_outcome(devices=32, device_kind='NVIDIA H100 80GB HBM3', collectives=kinds)
    found = forecast.compiled(*planned(recipe('s', 'batch_size=64')), 'h100:4x8', outcome)
    h100 = chips.CHIPS['h100']
    assert found.slices == 4 and found.seconds['links'] == 8e9 / h100.link_rate + 1e9 / h100.network_rate


def test_a_program_takes_three_quarters_of_a_gpu_by_default(monkeypatch):
    monkeypatch.delenv('XLA_PYTHON_CLIENT_MEM_FRACTION', raising=False)
    whole = chips.CHIPS['h100'].memory
    assert forecast.estimated(*planned(recipe()), 'h100', 256).has == 0.75 * whole
    monkeypatch.setenv('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.92')
    assert forecast.estimated(*planned(recipe()), 'h100', 256).has == 0.92 * whole
    assert forecast.estimated(*planned(recipe()), 'v6e', 256).has == chips.CHIPS['v6e'].memory


def test_a_kind_of_device_without_figures_still_shows_its_memory():
    found = forecast.compiled(*planned(recipe('s', 'batch_size=64')), 'v9:2x2', compiled_outcome(device_kind='TPU v9'))
    assert found.chip is None and found.seconds == {} and found.fits == 'yes' and found.needs == pytest.approx(9 * GIB)


@pytest.mark.parametrize(
    ('overrides', 'kind', 'devices'),
    [([], 'h100', 8), ([], 'v5e', 16), (['model.remat=full', 'batch_size=4096'], 'v6e', 4), ([], 'v5e', 128)],
)
def test_what_is_suggested_would_fit(overrides, kind, devices):
    config = recipe('h', *overrides)
    found = forecast.estimated(*planned(config), kind, devices)
    assert found.fits == 'no' and found.remedies
    for changes, needs in found.remedies:
        alone = forecast.estimated(*planned(changed(config, changes)), kind, devices)
        assert alone.fits == 'yes' and alone.needs == pytest.approx(needs)
        assert alone.config.batch_size % devices == 0


def test_no_split_across_hosts_of_gpus_is_suggested():
    config = recipe('h', 'mesh.fsdp=8', 'batch_size=8192')
    found = forecast.estimated(*planned(config), 'h100', 16)
    assert found.fits == 'no' and found.remedies
    assert 'mesh.fsdp' not in {key for changes, _ in found.remedies for key, _ in changes}


def test_one_change_is_suggested_alone_where_it_is_enough():
    found = forecast.estimated(*planned(recipe('s', 'model.remat=none', 'batch_size=512')), 'v6e', 16)
    changes = [dict(changes) for changes, _ in found.remedies]
    assert {'model.remat': 'full'} in changes and {'accumulate': 4} in changes


def test_a_shortage_scales_the_estimate_of_what_would_fit():
    config = recipe('s', 'batch_size=64', 'model.remat=none')
    shortage = {'devices': 1, 'device_kind': 'TPU v6 lite', 'seconds': 9.0, 'needs': 168.0 * GIB, 'has': 31.25 * GIB}
    found = forecast.compiled(*planned(config), 'v6e:1x1', {'shortage': shortage})
    assert found.fits == 'no' and found.seconds == {} and found.needs > 168 * GIB
    scale = found.needs / sum(estimate.memory(*planned(config), 'tpu', 1).values())
    for changes, needs in found.remedies:
        assert needs == pytest.approx(
            scale * sum(estimate.memory(*planned(changed(config, changes)), 'tpu', 1).values())
        )
        assert needs < found.has


def test_a_model_that_is_too_large_for_anything_has_no_remedy():
    found = forecast.estimated(*planned(recipe('h', 'batch_size=1', 'model.remat=full')), 'v5e', 1)
    assert found._replace(remedies=forecast.remedies(found._replace(has=1 * GIB))).remedies == ()
