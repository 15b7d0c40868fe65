"""Parts of one's own by name: where they are found, what is said of those that do not fit, and who may import them."""

import dataclasses
import json
import os
import sys

import pytest

from rvm_jax import config as configs
from rvm_jax import plugins, pretrained
from rvm_jax.conversion.export_folder import architecture_from
from rvm_jax.data.open_data import open_source, open_training
from rvm_jax.errors import ConfigErrors, UserError
from rvm_jax.models import architecture, catalog
from rvm_jax.probing.registry import open_benchmark
from rvm_jax.training import run_record
from rvm_jax.training.loss import objective_of
from rvm_jax.training.preflight import config_problems

CORE = """
from rvm_jax.models.block_shapes import Blocks
from rvm_jax.models.cores.core import Core

class Mine(Core):
    sizes = {'tiny': (3, 1)}
    keys = ('core_mlp',)
    @classmethod
    def from_architecture(cls, arch, *, execution, rngs):
        return cls()
    @staticmethod
    def shapes(arch, frames, num_tokens):
        return Blocks(0, frames * num_tokens, arch.width, 0, ())
    def init_state(self, batch, tokens):
        return ()
    def scan(self, tokens_BTMD, state=None, learning=None):
        return tokens_BTMD, ()

class Half(Core):
    def init_state(self, batch, tokens):
        return ()

class Other:
    pass

NUMBER = 3
"""
SOURCE = """
class Two:
    fps = None
    def __init__(self, path, split):
        self.path, self.split = path, split
    def __len__(self):
        return 0 if self.path == 'none' else 2
    def __getitem__(self, index):
        return self
    name = 'two'
    def manifest(self):
        return [[self.path, 1, 1]]
    def fingerprint(self):
        return self.path

class Bare(Two):
    def __init__(self, path, split):
        pass

class NoManifest:
    def __init__(self, path, split):
        pass
    def __len__(self):
        return 1

class OneArgument(Two):
    def __init__(self, path):
        pass
"""
OBJECTIVE = """
def mine(model, batch, visible_BFV, *, learning=None, **settings):
    return 0.0, None

def no_settings(model, batch, visible_BFV, *, learning=None):
    return 0.0, None
"""
EVIL = "import os\nopen(os.environ['MARK'], 'w').close()\n" + CORE


@pytest.fixture
def place(tmp_path, monkeypatch):
    """place(text, folder, name) writes a module of a name that no other test has, and returns the name."""
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setenv('MARK', str(tmp_path / 'mark'))
    written = []

    def write(text, folder='here', name=''):
        if not name:
            name = f'own_{abs(hash(str(tmp_path)))}_{len(written)}'
            written.append(name)
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f'{name}.py').write_text(text)
        return name

    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    yield write
    for name in written:
        sys.modules.pop(name, None)


def recipe(folder):
    """A recipe in a folder of its own."""
    folder.mkdir(exist_ok=True)
    (folder / 'recipe.py').write_text(
        "from rvm_jax import config\n\n\ndef get_config():\n    return config.load('tiny')\n"
    )
    return folder / 'recipe.py'


def test_a_module_is_found_on_the_path_beside_the_recipe_or_here(place, tmp_path, monkeypatch):
    path = recipe(tmp_path / 'recipes')
    here, beside, installed = place(CORE), place(CORE, 'recipes'), place(CORE, 'installed')
    monkeypatch.syspath_prepend(tmp_path / 'installed')
    for module in (here, beside, installed):
        config = configs.load(path, [f'model.core={module}:Mine'])
        assert architecture.from_config(config).core_layers == 3
        assert os.path.dirname(plugins.source_file(f'{module}:Mine')).startswith(str(tmp_path))
    assert sys.path[-2:] == [str(tmp_path / 'here'), str(tmp_path / 'recipes')]


def test_a_module_of_a_package_and_of_the_path_come_first(place, tmp_path):
    place('raise RuntimeError', name='json')  # the one of Python counts
    with pytest.raises(UserError, match=r'json:Mine: json does not have Mine; check the name'):
        plugins.load('json:Mine', plugins.CORE)
    assert str(tmp_path / 'here') not in sys.path
    package = tmp_path / 'here' / 'own_package'
    package.mkdir()
    (package / '__init__.py').touch()
    (package / 'cores.py').write_text(CORE)
    try:
        assert plugins.load('own_package.cores:Mine', plugins.CORE).sizes == {'tiny': (3, 1)}
        assert plugins.environment(['own_package.cores:Mine'])['PYTHONPATH'].startswith(str(tmp_path / 'here'))
    finally:
        for name in ('own_package', 'own_package.cores'):
            sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ('text', 'attribute', 'message'),
    [
        ('', 'Mine', r'config\.model\.core=own_\w+:Mine: own_\w+ does not have Mine; check the name'),
        (CORE, 'Minee', r'own_\w+ does not have Minee'),
        (CORE, 'Half', r'is not a valid core: it lacks from_architecture, shapes, scan; docs/plugins\.md has'),
        (CORE, 'Other', r'is not a valid core: it lacks from_architecture, shapes, init_state, scan, step, '),
        (CORE, 'NUMBER', r'is not a valid core: it lacks from_architecture'),
        ('import nowhere_at_all', 'Mine',
         r"cannot be imported \(ModuleNotFoundError: No module named 'nowhere_at_all', own_\w+\.py line 1\); cor"),
        ('x = 1\n1 / 0', 'Mine', r'cannot be imported \(ZeroDivisionError: division by zero, own_\w+\.py line 2\)'),
        ('def f(:', 'Mine', r'cannot be imported \(SyntaxError: invalid syntax, own_\w+\.py line 1\)'),
        ('raise SystemExit(3)', 'Mine', r'cannot be imported \(SystemExit: 3, '),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_core_is_one_line(place, text, attribute, message):
    with pytest.raises(ConfigErrors, match=message) as raised:
        configs.load('tiny', [f'model.core={place(text)}:{attribute}', 'data.path=/tmp'], config_problems)
    assert len(raised.value.errors) == 1


@pytest.mark.parametrize('key', ['model.core', 'objective.name', 'data.path', 'data.eval_path'])
def test_a_module_that_is_nowhere_is_said_once(place, key):
    overrides = [f'{key}=nowhere.at:all'] + (['data.path=/tmp'] if key != 'data.path' else [])
    with pytest.raises(ConfigErrors) as raised:
        configs.load('tiny', overrides, config_problems)
    assert str(raised.value).startswith(f'config.{key}=nowhere.at:all: ') and len(raised.value.errors) == 1
    assert "there is no module nowhere.at on Python's path, or in " in str(raised.value)
    assert f' or {os.getcwd()}; check the name, or set PYTHONPATH' in str(raised.value)


@pytest.mark.parametrize(
    ('attribute', 'message'),
    [
        ('NoManifest', 'is not a valid data source: it lacks __getitem__, manifest, fingerprint'),
        (
            'OneArgument',
            r'is not a valid data source: it cannot be called with 2 arguments \(too many positional arguments\)',
        ),
        ('Bare', 'is not a valid data source: it lacks path'),
        ('Two:none', r"holds no video; check what it is given \('none'\)"),
    ],
)
def test_what_is_wrong_with_a_source_is_one_line(place, attribute, message):
    with pytest.raises((UserError, ConfigErrors), match=message):
        config = configs.load('tiny', [f'data.path={place(SOURCE)}:{attribute}'], config_problems)
        open_training(config.data)


def test_an_objective_takes_the_keys_of_the_config(place):
    module = place(OBJECTIVE)
    config = configs.load('tiny', [f'objective.name={module}:mine'])
    assert objective_of(config.objective).func.__name__ == 'mine'
    assert {*plugins.OBJECTIVE.named} == {*configs.default().objective, 'learning'} - {'name'}
    with pytest.raises(
        ConfigErrors, match='is not a valid objective: it cannot be called with 3 arguments, learning, region'
    ):
        configs.load('tiny', [f'objective.name={module}:no_settings'])


def test_a_source_gets_its_argument_and_split_also_in_a_mixture(place):
    module = place(SOURCE)
    mixture = f'[("{module}:Two:a/b c", 25, 0.5), ("{module}:Two", 10, 0.5)]'
    data = configs.load('tiny', [f'data.mixture={mixture}', f'data.eval_path={module}:Two:held:out']).data
    parts = [part.source for part in open_training(data).parts]
    assert [(source.path, source.split) for source in parts] == [('a/b c', 'train'), ('', 'train')]
    held_out = open_source(data.eval_path, 'val')
    assert (held_out.path, held_out.split) == ('held:out', 'val')


def test_a_path_that_is_there_is_a_path(place, tmp_path):
    (tmp_path / 'here' / 'videos:old').mkdir()
    (tmp_path / 'here' / 'videos:old' / 'a.mp4').touch()
    config = configs.load('tiny', ['data.path=videos:old'], config_problems)
    assert len(open_training(config.data)) == 1


@pytest.mark.parametrize(
    ('text', 'parts'),
    [
        ('a:b', ('a:b', '')), ('a.b_1:C', ('a.b_1:C', '')), ('a:b:/c:d', ('a:b', '/c:d')), ('a:b:', ('a:b', '')),
        *((text, ('', '')) for text in ('mnist:3.0.1', 'a/b:1.0.0', 'gs://a/b', 'a', 'a:b c', 'a:', '../a:b', 'a:b/c')),
        ('a' * 300 + ':b', ('', '')),
    ],
)  # fmt: skip
def test_the_form_of_a_name(text, parts):
    assert plugins.split_argument(text) == parts
    assert plugins.is_name(text) == (parts == (text, ''))


def test_keys_that_a_core_reads_may_be_set(place):
    module = place(CORE)
    assert configs.load('tiny', [f'model.core={module}:Mine', 'model.core_mlp=64']).model.core_mlp == 64
    assert catalog.core_keys(f'{module}:Mine') == ('core_mlp',)
    with pytest.raises(ConfigErrors, match=r'output_norm=True: works only with model\.core=rvmrnn'):
        configs.load('tiny', [f'model.core={module}:Mine', 'model.output_norm=true'])


def test_a_wrong_name_is_told_that_it_may_be_ones_own():
    with pytest.raises(ConfigErrors, match=r'take one of .*, or your own as MODULE:NAME'):
        configs.load('tiny', ['model.core=xyz'])


def test_a_task_of_ones_own_must_be_one(place):
    with pytest.raises(UserError, match=r'is not a valid task: it lacks title, metric, dataset'):
        open_benchmark(f'{place(CORE)}:Mine', '/tmp')
    with pytest.raises(UserError, match=r'--task xyz: is not a task; take .*, or your own as MODULE:NAME'):
        open_benchmark('xyz', '/tmp')


@pytest.fixture
def stored(place, make_workdir, tmp_path):
    """stored(name): paths of a workdir and an export, and the architecture, that name a core."""

    def write(name):
        arch = dataclasses.asdict(architecture.from_config(configs.load('tiny'))) | {'core': name}
        (tmp_path / 'export').mkdir()
        (tmp_path / 'export' / 'config.json').write_text(json.dumps({'architecture': arch}))
        (tmp_path / 'export' / 'model.safetensors').touch()
        (tmp_path / 'run').mkdir()
        run = json.loads((make_workdir(tmp_path / 'run', steps=(10,)) / 'config.json').read_text())
        run['config']['model']['core'] = name
        (tmp_path / 'run' / 'config.json').write_text(json.dumps(run))
        return [tmp_path / 'export', tmp_path / 'run'], arch

    return write


def test_a_file_imports_nothing(place, stored, tmp_path, monkeypatch):
    module = place(EVIL)
    monkeypatch.syspath_prepend(tmp_path / 'here')
    paths, arch = stored(f'{module}:Mine')
    for path in paths:
        for read in (pretrained.read_architecture, pretrained.load):
            with pytest.raises(
                UserError, match=f'needs the core {module}:Mine, and code that a file names is not imp'
            ) as e:
                read(path)
            assert str(path) in str(e.value) and f'RVM_PLUGINS={module}' in str(e.value)
    values = configs.default().to_dict()
    values['data']['path'] = values['data']['eval_path'] = f'{module}:Two'
    values['objective']['name'] = f'{module}:mine'
    configs.from_dict(values, 'config.json')  # what it names is not looked for
    assert module not in sys.modules and not (tmp_path / 'mark').exists()

    monkeypatch.setenv('RVM_PLUGINS', f'other, {module}')
    assert architecture_from(arch, 'a').core == f'{module}:Mine'
    assert (tmp_path / 'mark').exists()


def test_a_file_may_name_what_the_recipe_has_named(place, stored):
    module = place(CORE)
    _, arch = stored(f'{module}:Mine')
    configs.load('tiny', [f'model.core={module}:Mine'])
    assert architecture_from(arch, 'a').core == f'{module}:Mine'


@pytest.mark.parametrize(
    'name', ['os:system', 'subprocess:Popen', 'rvm_jax.config:load', 'json:__builtins__', 'flax:nnx']
)
def test_a_file_gets_no_other_code_that_is_there(stored, name):
    _, arch = stored(name)
    with pytest.raises(UserError, match=r'is not a valid core|does not have'):
        architecture_from(arch, 'config.json')


def test_a_module_is_not_asked_for_names_that_it_would_import(place):
    module = place('asked = []\ndef __getattr__(name):\n    asked.append(name)\n    raise AttributeError(name)\n')
    with pytest.raises(UserError, match='does not have Mine'):
        plugins.load(f'{module}:Mine', plugins.CORE)
    assert sys.modules[module].asked == []


def test_another_process_is_told_where_modules_are(place, tmp_path, monkeypatch):
    module = place(CORE, 'elsewhere')
    assert plugins.environment([]) == {}
    plugins.load(f'{module}:Mine', plugins.CORE, str(tmp_path / 'elsewhere'))
    monkeypatch.setenv('PYTHONPATH', '/old')
    found = plugins.environment([f'{module}:Mine', 'json:loads'])
    assert found == {'RVM_PLUGINS': f'json,{module}', 'PYTHONPATH': f'{tmp_path}/elsewhere:/old'}


def test_processes_of_a_run_compare_the_code_of_its_parts(place, tmp_path, monkeypatch):
    class Hosts:
        count = 2

        def check_agreement(self, facts):
            self.facts = facts

    module = place(SOURCE)
    config = configs.load('tiny', [f'data.path={module}:Two'])
    found = []
    for text in (SOURCE, SOURCE + '# changed'):
        (tmp_path / 'here' / f'{module}.py').write_text(text)
        hosts = Hosts()
        source = open_training(config.data)
        run_record.check_hosts(hosts, config, source, None, run_record.FrozenEncoder({}, ''))
        found.append(hosts.facts[f'{module}:Two'])
    assert len(found[0]) == 8 and found[0] != found[1]
