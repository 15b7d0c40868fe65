import json
import pathlib
import re

import pytest

from rvm_jax import config as configs
from rvm_jax import key_hints
from rvm_jax.errors import ConfigErrors, UserError

RECIPES = sorted(
    path for path in pathlib.Path(__file__).parents[1].glob('configs/**/*.py') if path.parent.name != 'ablations'
)
TINY = 'configs/tiny.py'


@pytest.fixture
def problems(tmp_path):
    """problems(*overrides): what loading the defaults with these overrides complains about."""

    def load(*overrides):
        with pytest.raises(ConfigErrors) as error:
            configs.load(recipe(tmp_path, 'return c'), overrides)
        return [str(problem) for problem in error.value.errors]

    return load


def recipe(tmp_path, body):
    path = tmp_path / 'recipe.py'
    path.write_text(f'from rvm_jax import config\n\n\ndef get_config():\n    c = config.default()\n    {body}\n')
    return path


@pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
def test_every_recipe_builds(path):
    from rvm_jax.models import architecture, build, param_names
    from rvm_jax.training.optimizer import make_optimizer

    config = configs.load(path)
    model = build.abstract(architecture.from_config(config), build.execution(config.model))
    of_frozen = {'adapters', 'target'} if config.model.encoder != 'vit' else set()
    assert {name.split('/')[0] for name in param_names.named_shapes(model)} == {
        'encoder',
        'core',
        'decoder',
    } | of_frozen
    make_optimizer(config.optim, config.steps)


def test_there_is_a_recipe_for_every_core_on_a_frozen_encoder():
    frozen = [configs.load(path).model for path in RECIPES if configs.load(path).model.encoder != 'vit']
    assert {model.core for model in frozen} == {'rvmrnn', 'mamba', 'mambamix', 'gmmix'}
    assert {model.encoder for model in frozen} == {'dinov3', 'dinov2', 'siglip2', 'rvm'}


@pytest.mark.parametrize('path', sorted(pathlib.Path(__file__).parents[1].glob('configs/dinov3_*.py')))
@pytest.mark.parametrize('size', ['s', 'b', 'l'])
def test_every_dinov3_recipe_has_three_sizes(path, size):
    from rvm_jax.models import architecture

    arch = architecture.from_config(configs.load(path, [f'model.size={size}']))
    assert arch.width == architecture.SIZES[size].width == arch.image_encoder.width


def test_a_recipe_whose_mixture_lacks_a_weight_is_explained(tmp_path):
    lines = 'from rvm_jax import config', 'def get_config():', '    c = config.default()'
    (tmp_path / 'mix.py').write_text('\n'.join([*lines, "    c.data.mixture = [('a', 1)]", '    return c']))
    with pytest.raises(
        UserError, match=r'mix\.py: data\.mixture: is not a list of \(path, frames per second, weight\)'
    ):
        configs.load(str(tmp_path / 'mix.py'))


def test_there_is_a_recipe_for_every_size():
    assert {configs.load(path).model.size for path in RECIPES} == set(configs.SIZES)


def test_choices_are_the_names_that_the_code_knows():
    from rvm_jax.models import architecture, build, catalog, layers
    from rvm_jax.models.encoders import image_architecture

    assert set(configs.SIZES) == set(architecture.SIZES)
    assert set(configs.CHOICES['model.encoder']) == {'vit', 'rvm'} | set(image_architecture.FAMILIES)
    assert all(catalog.core_class(name) and name in configs.CHOICES['model.core'] for name in catalog.CORES)
    assert set(configs.CHOICES['model.target']) == set(build.TARGETS) | {'auto'}
    assert set(configs.CHOICES['model.precision']) == set(layers.PRECISIONS)
    assert set(configs.flatten(configs.default())) >= set(configs.CHOICES)


@pytest.mark.parametrize(
    ('override', 'value'),
    [
        ('steps=1e4', 10_000),
        ('steps=10_000', 10_000),
        ('optim.peak_lr=3e-4', 3e-4),
        ('optim.peak_lr=1', 1.0),
        ('model.unroll=false', 'false'),
        ('model.gate_bias=false', False),
        ('model.gate_bias=TRUE', True),
        ('data.crop_area=(0.5, 1)', (0.5, 1.0)),
        ('data.crop_area=[0.5,1.0]', (0.5, 1.0)),
        ('data.path=a=b', 'a=b'),
        ('data.path=123', '123'),
        ('data.path=', ''),
        ('mesh.fsdp=-1', -1),
        ("data.mixture=[('a', 25, 1), ['b/c', 10.0, 0.5]]", (('a', 25.0, 1.0), ('b/c', 10.0, 0.5))),
        ('data.mixture=()', ()),
    ],
)
def test_an_override_takes_the_type_of_its_default(override, value):
    config = configs.load(TINY)
    key, text = configs.parse_override(override)
    configs.set_value(config, key, text)
    found = configs.flatten(config)[key]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ('optim.peaklr=1', '--config.optim.peaklr: is not a key; did you mean optim.peak_lr?'),
        ('stepz=1', 'did you mean steps?'),
        ('peak_lr=1', 'did you mean optim.peak_lr?'),
        ('optim=1', '--config.optim: is not a key'),
        ('lr=1', 'did you mean optim.peak_lr?'),
        ('learning_rate=1', 'did you mean optim.peak_lr?'),
        ('model.patch=8', 'model.size sets it: tiny, s, b, l or h'),
        ('data.num_frames=4', 'did you mean data.num_source or data.clip_frames?'),
        ('resume=true', 'the command that began a run also resumes it'),
        ('epochs=800', 'training is counted in steps'),
        ('zzz=1', 'is not a key; see config.py'),
        ('steps', 'steps: does not have a value; write --config.steps=VALUE'),
        ('steps=1.5', '--config.steps=1.5: expected int; give something like 1000000'),
        ('steps=many', 'expected int'),
        ('steps=True', 'expected int'),
        ('steps=None', 'expected int'),
        ('optim.peak_lr=nan', 'expected float'),
        ('model.gate_bias=2', 'expected bool'),
        ('data.path=None', '--config.data.path=None: is not text; leave it empty'),
        ('data.crop_area=(0.1,0.2,0.3)', 'expected tuple'),
        ('data.crop_area=("a","b")', 'expected tuple; give something like (0.3, 1.0)'),
        ('data.crop_area=(None,1)', 'expected tuple'),
        ('model.size=bb', 'config.model.size=bb: is not a choice; did you mean b?'),
        ('model.remat=everything', 'take one of none, dots, full'),
        ('model.precision=float16', 'did you mean float32?'),
        ('steps=0', 'config.steps=0: must be above 0'),
        ('optim.peak_lr=-1', 'must not be negative'),
        ('data.flip=1.5', 'is a fraction'),
        ('model.mask_ratio=1', 'must be below 1'),
        ('model.encoder_path=x', 'works only with a frozen encoder, and config.model.encoder is vit; leave it empty'),
        ('model.target=mask_token', 'works only with a frozen encoder'),
        ('objective.feature_weight=1', 'works only with a frozen encoder'),
        ('model.taps=last', 'config.model.taps=last: works only with a frozen encoder; leave it at 4_regular'),
        ('model.core_dropout=0.5', 'works only with model.core=mamba, mambamix, gmmix'),
        ('data.crop_area=(0.5,0.1)', 'must be a range above 0'),
        ('data.crop_area=(0.5,2)', 'is a fraction of the frame'),
        ('data.min_gap=49', 'is above max_gap=48'),
        ('data.max_gap=61', 'the farthest target is frame 64 of the clip; give 65 or more'),
        ('data.clip_frames=65', 'the delta embedding counts to 63'),
        ('mesh.fsdp=0', 'is a number of devices'),
        ('data.mixture=a', '--config.data.mixture=a: is not a list of (path, frames per second, weight)'),
        ("data.mixture=[('a', 10)]", 'is not a list of (path'),
        ("data.mixture=[('a', 10, 0)]", 'has a frame rate or weight that is not above 0'),
    ],
)
def test_a_mistake_is_named_with_its_fix(problems, override, message):
    [problem] = problems(override)
    assert message in problem and '\n' not in problem


def test_two_axes_cannot_both_take_what_is_left(problems):
    [problem] = problems('mesh.data=-1', 'mesh.fsdp=-1')
    assert 'config.mesh.data=-1: config.mesh.fsdp is -1 too; set one of the two to a number' in problem


def test_all_mistakes_are_told_at_once(problems):
    found = problems('optim.peaklr=1', 'steps=many', 'model.size=xl', 'data.flip=2', 'data.min_gap=49')
    assert len(found) == 5


def test_a_recipe_cannot_invent_a_key(tmp_path):
    with pytest.raises(UserError, match=r'recipe\.py.*peaklr.*Did you mean "peak_lr"'):
        configs.load(recipe(tmp_path, 'c.optim.peaklr = 1.0; return c'))


@pytest.mark.parametrize(
    ('body', 'reason'),
    [
        ('c.optim.peak_lr = "high"; return c', 'peak_lr'),
        ('return d', "name 'd' is not defined"),
        ('import no_such_module', 'no_such_module'),
        ('return c.no_such_key', 'no_such_key'),
        ('return (', 'never closed'),
        ('c.data.crop_area = (0.1,); return c', 'must be a range above 0'),
        ('pass', 'does not return a changed config.default'),
    ],
)
def test_a_broken_recipe_is_one_line(tmp_path, body, reason):
    with pytest.raises((UserError, ConfigErrors), match=reason) as error:
        configs.load(recipe(tmp_path, body))
    assert '\n' not in str(error.value)


def test_a_file_that_is_no_recipe_is_named(tmp_path):
    (tmp_path / 'empty.py').write_text('')
    with pytest.raises(UserError, match=r'does not have get_config\(\)'):
        configs.load(tmp_path / 'empty.py')
    with pytest.raises(UserError, match='does not exist'):
        configs.load('configs/none.py')


def test_shipped_recipes_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert configs.load(TINY).model.size == 'tiny'


def test_a_stored_config_comes_back():
    config = configs.load(TINY, ['data.crop_area=(0.5,0.9)', 'steps=7'])
    stored = json.dumps(config.to_dict())
    assert configs.from_dict(json.loads(stored), 'here').to_dict() == config.to_dict()


def test_a_config_from_before_a_key_was_there_has_its_default():
    stored = configs.load(TINY, ['steps=7']).to_dict()
    del stored['optim']['allow_change']
    assert configs.from_dict(stored, 'here').to_dict() == configs.load(TINY, ['steps=7']).to_dict()


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        ({'stepz': 1}, 'here: has the unknown keys stepz'),
        ({'steps': 'many'}, "here: has steps='many'"),
        ({'data': 3}, 'has the unknown keys data'),
        ({'batch_size': -1}, 'config.batch_size=-1: must be above 0'),
    ],
)
def test_a_damaged_stored_config_is_explained(change, reason):
    with pytest.raises(UserError, match=reason):
        configs.from_dict(configs.default().to_dict() | change, 'here')
    for nothing in ['not a config'], {}:
        with pytest.raises(UserError, match='holds no config'):
            configs.from_dict(nothing, 'here')


def test_what_other_names_lead_to_exists():
    known = configs.flatten(configs.default())
    for hint in key_hints.MEANT:
        words = re.findall(r'[a-z_]+[.][a-z0-9_]+', hint)
        assert all(word in known for word in words), hint
    assert not set(key_hints.OTHER_NAMES) & set(known)


def test_the_peak_learning_rate_follows_the_batch_and_says_so(capsys):
    for overrides in (['optim.peak_lr=auto', 'batch_size=64'], ['batch_size=64', 'optim.peak_lr=auto']):
        assert configs.load('configs/rvm_s.py', overrides).optim.peak_lr == pytest.approx(1.5e-4 * 64 / 256)
        said = 'optim.peak_lr=auto: 3.75e-05, the 0.0012 of the recipe for 2,048 clips a step x 64 / 2,048\n'
        assert capsys.readouterr().err == said
    assert configs.load('configs/rvm_l.py', ['optim.peak_lr=auto']).optim.peak_lr == 6e-4
    assert configs.load('configs/rvm_s.py', ['optim.peak_lr=auto', 'optim.peak_lr=1e-3']).optim.peak_lr == 1e-3
