"""Runs on a frozen image encoder: what it trains, keeps, saves and refuses."""

import dataclasses
import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from rvm_jax import cli, config, pretrained
from rvm_jax.conversion.frozen import resolve
from rvm_jax.errors import ConfigErrors, UserError
from rvm_jax.models import build, layers, param_names, trainable
from rvm_jax.storage import checksums
from rvm_jax.training import checkpoint, initialize, sharding
from rvm_jax.training.loop import train
from rvm_jax.training.state import make_programs

NAME = 'dinov2/registers'
SMALL = [
    'model.size=tiny', 'model.encoder=dinov2', 'model.unroll=false', 'model.core_layers=1', 'data.image_size=24',
    'model.mask_ratio=0.5', 'batch_size=8', 'log.every=1', 'log.images_every=0', 'log.eval_clips=4',
    'data.num_workers=0', 'mesh.data=-1', 'checkpoint.every=1',
    'steps=3', 'optim.warmup=0.34',  # the first step has a learning rate of zero
]  # fmt: skip


@pytest.fixture(scope='module')
def deep(golden):
    """deep() -> a small DINOv2 with registers and four layers, as Hugging Face writes it; `write` makes its folder."""

    def make():
        found = golden(NAME)
        for key in [key for key in found.arrays if '.layer.0.' in key]:
            for layer in (2, 3):
                found.arrays[key.replace('.layer.0.', f'.layer.{layer}.')] = found.arrays[key][::-1].copy()
        return dataclasses.replace(found, config=found.config | {'num_hidden_layers': 4})

    return make


@pytest.fixture(scope='module')
def encoder(deep, tmp_path_factory):
    return deep().write(tmp_path_factory.mktemp('weights') / 'encoder')


@pytest.fixture
def recipe(videos, encoder):
    def make(*overrides):
        paths = f'data.path={videos}', f'model.encoder_path={encoder}'
        return config.load('configs/tiny.py', [*SMALL, *paths, *overrides])

    return make


@pytest.fixture(scope='module')
def run(videos, encoder, tmp_path_factory):
    """A finished workdir of three steps."""
    workdir = str(tmp_path_factory.mktemp('run') / 'workdir')
    paths = f'data.path={videos}', f'model.encoder_path={encoder}', f'data.eval_path={videos}'
    train(config.load('configs/tiny.py', [*SMALL, *paths]), workdir, pretrained.load)
    return workdir


def programs_of(config_):
    return make_programs(config_, resolve(config_)[0])


def test_nothing_frozen_moves_and_all_else_does(recipe, run, encoder):
    arch = pretrained.read_architecture(run)
    fresh = jax.device_get(programs_of(recipe()).create())
    trained = param_names.to_named(pretrained.load(run))
    frozen = param_names.to_named(pretrained.load(encoder))
    assert {name: array.tobytes() for name, array in frozen.items()} == {
        name: array.tobytes() for name, array in trained.items() if name.startswith('encoder/')
    }
    before = param_names.tree_named(trainable.joined(fresh['params'], fresh['statistics']))
    assert not any(name.startswith('encoder/') for name in before)
    still = [name for name, array in before.items() if np.array_equal(array, trained[name])]
    assert still == [] and arch.is_frozen


def test_optimizer_and_gradients_know_only_what_trains(recipe):
    programs = programs_of(recipe())
    trained = sum(leaf.size for leaf in jax.tree.leaves(programs.abstract_state['params']))
    moments = sum(leaf.size for leaf in jax.tree.leaves(programs.abstract_state['opt_state']) if leaf.ndim)
    assert moments == 2 * trained
    assert set(programs.abstract_state['params']) == {'adapters', 'core', 'decoder', 'target'}
    assert set(programs.abstract_frozen) == {'encoder'}
    whole = nnx.to_pure_dict(nnx.state(build.abstract(programs.arch)))
    assert sum(leaf.size for leaf in jax.tree.leaves(whole)) == trained + sum(
        leaf.size for tree in (programs.abstract_frozen, programs.abstract_state['statistics'])
        for leaf in jax.tree.leaves(tree)
    )  # fmt: skip


def test_frozen_kernels_are_bfloat16_where_products_are(recipe):
    for precision, dtype in (('bf16', 'bfloat16'), ('float32', 'float32'), ('official_mixed', 'float32')):
        frozen = programs_of(recipe(f'model.precision={precision}')).abstract_frozen
        dtypes = {
            name.split('/')[-1]: str(leaf.dtype)
            for name, leaf in ((param_names.path_name(p), x) for p, x in jax.tree_util.tree_leaves_with_path(frozen))
        }
        assert dtypes['kernel'] == dtype and dtypes['scale'] == dtypes['bias'] == 'float32'


def test_rounding_frozen_kernels_early_changes_no_number(recipe, encoder):
    arch, _ = resolve(recipe())
    execution = layers.Execution(layers.PRECISIONS['bf16'])
    model = pretrained.load(encoder, precision='bf16')
    graphdef, params = nnx.split(model)
    params = nnx.to_pure_dict(params)
    held = trainable.stored(trainable.split(params, arch)[2], execution.precision)
    rounded = jax.tree.map(lambda x, wanted: x.astype(wanted.dtype), params, trainable.joined(params, held))
    frames = np.random.default_rng(0).integers(0, 256, (1, 2, 24, 24, 3), np.uint8)
    expected, _ = model.encode(frames)
    found, _ = nnx.merge(graphdef, rounded).encode(frames)
    np.testing.assert_array_equal(found, expected)


def test_a_checkpoint_has_no_encoder_but_its_fingerprint(recipe, run):
    step = os.path.join(run, 'checkpoints', '3')
    manifest = json.loads(pathlib.Path(step, checksums.NAME).read_text())
    parts_saved = {name.split('/')[1] for name in manifest['tree'] if name.startswith('params/')}
    assert parts_saved == {'adapters', 'core', 'decoder', 'target'}
    assert any(name.startswith('statistics/') for name in manifest['tree'])
    assert not any('encoder' in name.split('/') for name in manifest['tree'])
    assert checkpoint.read_step(run, 3)[2]['encoder'] == resolve(recipe())[1].read().fingerprint


@pytest.mark.long
def test_another_encoder_is_refused_but_not_a_copy_of_it(recipe, run, deep, tmp_path):
    elsewhere = deep().write(tmp_path / 'elsewhere')
    other = deep()
    key = next(key for key in other.arrays if key.endswith('weight') and other.arrays[key].ndim == 2)
    other.arrays[key] = other.arrays[key] + np.float32(1e-3)
    other = other.write(tmp_path / 'other')
    workdir = str(shutil.copytree(run, tmp_path / 'copy'))
    with pytest.raises(UserError, match=r'was trained on another encoder than .*other'):
        train(recipe(f'model.encoder_path={other}'), workdir, pretrained.load)
    train(recipe(f'model.encoder_path={elsewhere}'), workdir, pretrained.load)
    assert param_names.to_named(pretrained.load(workdir)).keys() == param_names.to_named(pretrained.load(run)).keys()


def test_a_model_whose_encoder_has_changed_since_does_not_open(run, tmp_path, deep):
    workdir = pathlib.Path(shutil.copytree(run, tmp_path / 'copy'))
    other = deep()
    other.arrays['embeddings.cls_token'] = other.arrays['embeddings.cls_token'] + 1
    stored = json.loads((workdir / 'config.json').read_text())
    stored['config']['model']['encoder_path'] = other.write(tmp_path / 'other')
    (workdir / 'config.json').write_text(json.dumps(stored))
    with pytest.raises(UserError, match='another encoder'):
        pretrained.load(workdir)
    stored['config']['model']['encoder_path'] = str(tmp_path / 'gone')
    (workdir / 'config.json').write_text(json.dumps(stored))
    with pytest.raises(UserError, match='gone'):
        pretrained.load(workdir)


@pytest.mark.long
def test_a_stopped_run_resumes_as_if_it_had_not_stopped(recipe, run, tmp_path):
    workdir = str(shutil.copytree(run, tmp_path / 'copy'))
    shutil.rmtree(os.path.join(workdir, 'checkpoints', '3'))
    train(recipe(), workdir, pretrained.load)
    left, right = param_names.to_named(pretrained.load(workdir)), param_names.to_named(pretrained.load(run))
    assert all(np.array_equal(left[name], right[name]) for name in right)


@pytest.mark.long
def test_eight_devices_learn_what_one_does(recipe):
    options = 'model.core=mamba', 'model.core_dropout=0.5'

    def losses(mesh, devices, fresh=None):
        recipe_ = recipe(*options, *mesh)
        arch, encoder_files = resolve(recipe_)
        programs = make_programs(recipe_, arch, devices)
        frozen = encoder_files.read().placed(programs.abstract_frozen)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, programs.abstract_state)
        fresh = jax.device_get(programs.create()) if fresh is None else fresh
        state, found = jax.device_put(fresh, shardings), []
        rng = np.random.default_rng(0)
        batch = {
            'source_BTHWC': rng.integers(0, 256, (8, 2, 24, 24, 3), np.uint8),
            'target_BFHWC': rng.integers(0, 256, (8, 2, 24, 24, 3), np.uint8),
            'deltas_BF': rng.integers(2, 9, (8, 2), np.int32),
        }
        before = jax.device_get(frozen)
        for _ in range(3):
            state, metrics = programs.train_step(state, sharding.place_batch(programs.mesh, batch), frozen)
            found.append(float(metrics['loss']))
        for left, right in zip(jax.tree.leaves(jax.device_get(frozen)), jax.tree.leaves(before), strict=True):
            assert left.tobytes() == right.tobytes()
        return found, jax.device_get(state['statistics']), fresh

    one = losses(['mesh.data=1', 'mesh.fsdp=1'], jax.devices()[:1])
    many = losses(['mesh.data=4', 'mesh.fsdp=2'], jax.devices()[:8], one[2])
    np.testing.assert_allclose(many[0], one[0], rtol=1e-4)
    for left, right in zip(jax.tree.leaves(many[1]), jax.tree.leaves(one[1]), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)


@pytest.fixture
def released(recipe, tmp_path):
    """released(width) -> a file in the released RVM layout with the core and decoder of the small recipe."""

    def make(width):
        arch = resolve(recipe())[0]
        arch = dataclasses.replace(
            arch, encoder='vit', image_encoder=None, taps='last', target='shared', width=width, encoder_layers=1,
            encoder_heads=2, encoder_head_dim=width // 2, core_head_dim=width // 2,
        )  # fmt: skip
        model = build.build(arch, rngs=nnx.Rngs(7))
        path = str(tmp_path / f'rvm_{width}.npz')
        pretrained.save_official(model, path)
        return path, param_names.to_named(model)

    return make


def taken(recipe_, path):
    """What a run takes of a model that it starts from, {name: array}, and the parts that it takes and does not."""
    arch, encoder_files = resolve(recipe_)
    programs, encoder = make_programs(recipe_, arch), encoder_files.read()
    found = initialize.take_initial(path, pretrained.load(path), programs.arch, encoder, programs.abstract_state)
    arrays = param_names.tree_named(trainable.joined(*found.values()))
    return arrays, set(found['params']), set(programs.abstract_state['params']) - set(found['params'])


@pytest.mark.long
def test_core_and_decoder_start_from_released_weights(recipe, released, tmp_path, capfd):
    path, expected = released(24)
    workdir = str(tmp_path / 'run')
    train(recipe(f'init_from={path}'), workdir, pretrained.load)
    found = param_names.to_named(pretrained.load(workdir, step=1))
    names = [name for name in found if name.split('/')[0] in ('core', 'decoder')]
    assert names and all(np.array_equal(found[name], expected[name]) for name in names)
    assert f'starting from {path}: core, decoder; fresh: adapters, target' in capfd.readouterr().err


def test_weights_of_another_width_or_core_are_refused(recipe, released):
    path, _ = released(32)
    with pytest.raises(UserError, match='is 32 wide, and the frozen encoder 24'):
        taken(recipe(), path)
    path, _ = released(24)
    with pytest.raises(UserError, match='its core is rvmrnn, and that of this run mamba'):
        taken(recipe('model.core=mamba'), path)


def test_a_run_starts_from_all_that_another_has_trained(recipe, run):
    arrays, _, fresh = taken(recipe(), run)
    expected = param_names.to_named(pretrained.load(run))
    assert not fresh and {name for name in expected if not name.startswith('encoder/')} == set(arrays)
    assert all(np.array_equal(array, expected[name]) for name, array in arrays.items())


@pytest.mark.long
def test_adapters_of_another_encoder_or_use_start_fresh(recipe, run, deep, tmp_path):
    other = deep()
    other.arrays['embeddings.cls_token'] = other.arrays['embeddings.cls_token'] + 1
    elsewhere = f'model.encoder_path={other.write(tmp_path / "other")}'
    for override in ('model.taps=3_regular_and_conv', 'model.adapter_norm=ln', elsewhere):
        _, used, fresh = taken(recipe(override), run)
        assert (used, fresh) == ({'core', 'decoder', 'target'}, {'adapters'})


def test_a_decoder_starts_from_weights_without_a_feature_head(recipe, run):
    arrays, used, fresh = taken(recipe('objective.feature_weight=1'), run)
    assert 'decoder' in used and not fresh and not any('feature_head' in name for name in arrays)


def test_training_without_a_frozen_encoder_needs_all_to_fit(recipe, run):
    with pytest.raises(UserError, match='its arrays do not fit'):
        taken(recipe('model.encoder=vit', 'model.encoder_path='), run)


def test_an_image_encoder_has_no_core_to_start_from(recipe, encoder):
    with pytest.raises(UserError, match='its core is identity, and that of this run rvmrnn'):
        taken(recipe(), encoder)


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        (['model.encoder_path='], 'where are the weights of dinov2'),
        (['model.encoder_path=/nowhere'], '/nowhere'),
        (['model.encoder=dinov3'], 'dinov2'),
        (['data.image_size=28'], 'is not a multiple of the patch, 8 pixels; take 24'),
        (['model.target=mask_token', 'model.encoder=siglip2'], 'siglip2 does not have a mask token'),
    ],
)
def test_what_does_not_go_together_is_named_before_anything_runs(recipe, overrides, message, tmp_path):
    with pytest.raises((UserError, ConfigErrors), match=message):
        train(recipe(*overrides), str(tmp_path / 'run'), pretrained.load)
    assert not (tmp_path / 'run').exists()


def command(name, *words):
    return cli.run(name, [str(word) for word in words])


@pytest.mark.long
def test_workdir_export_and_encoder_work_in_every_command(run, encoder, videos, tmp_path, capsys):
    video = sorted(pathlib.Path(videos).glob('*.mp4'))[0]
    export = tmp_path / 'export'
    assert command('export', '--model', run, '--output', export) == 0
    card = (export / 'README.md').read_text()
    assert 'dinov2, frozen, patch 8, width 24, 4 layers' in card and 'Apache-2.0' in card
    assert 'features need `adapters.`, `core.`, `encoder.`' in card
    features = {}
    for name, path in (('run', run), ('export', export), ('encoder', encoder)):
        folder = tmp_path / name
        assert command('features', '--model', path, '--video', video, '--output', folder, '--size', 32) == 0
        assert command('visualize', '--model', path, '--video', video, '--output', folder, '--frames', 6) == 0
        assert command('info', path) == 0
        features[name] = np.load(folder / f'{video.stem}.npz')['features']
        assert (folder / 'pca.png').exists() and (folder / 'reconstruction.png').exists() == (name != 'encoder')
    np.testing.assert_array_equal(features['run'], features['export'])
    assert features['encoder'].shape == features['run'].shape == (24, 5 + 16, 24)
    assert 'frozen' in capsys.readouterr().out
    assert command('export', '--model', run, '--output', tmp_path / 'a.npz', '--format', 'official') == 2
    assert 'the released layout holds an RVM trained as a whole' in capsys.readouterr().err
    assert command('export', '--model', encoder, '--output', tmp_path / 'encoder_export') == 0
    left, right = pretrained.load(encoder), pretrained.load(tmp_path / 'encoder_export')
    assert left.architecture == right.architecture
    assert 'by itself' in (tmp_path / 'encoder_export' / 'README.md').read_text()


def test_an_exported_image_encoder_is_checked_before_it_is_built(run, tmp_path):
    export = tmp_path / 'export'
    assert command('export', '--model', run, '--output', export) == 0
    stored = json.loads((export / 'config.json').read_text())
    for name, value in (('layers', 10**9), ('layers', '4'), ('mean', [0.5, 'x']), ('family', 'dino9'),
                        ('activation', 'relu'), ('interpolation', 3), ('cls', 1), ('heads', 0), ('patch_size', 0),
                        ('std', [0.0, 1.0, 1.0]), ('mean', []), ('position_grid', [4]), ('interpolation', ''),
                        ('rope_periods', [1.0])):  # fmt: skip
        image = stored['architecture']['image_encoder'] | {name: value}
        changed = stored | {'architecture': stored['architecture'] | {'image_encoder': image}}
        (export / 'config.json').write_text(json.dumps(changed))
        with pytest.raises(UserError, match=f'{name}='):
            pretrained.load(export)
