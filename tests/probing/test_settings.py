import dataclasses

import pytest

from rvm_jax.errors import UserError
from rvm_jax.probing import settings
from rvm_jax.probing.registry import BENCHMARKS
from rvm_jax.probing.train_readout import Schedule


def dataset(root, split='val', *, num_frames=16, crop_area=(0.3, 1.0), flip=0.5, colors=True, camera='FRONT', fps=None):
    return num_frames


@dataclasses.dataclass(frozen=True)
class Inner:
    size: tuple = (480, 880)
    top_k: int = 7


@dataclasses.dataclass(frozen=True)
class Task:
    heads: int = 8
    log_scales: tuple = (0.0, -3.0)
    inner: Inner = Inner()


def resolved(**overrides):
    return settings.resolve(dataset, overrides, 'data')


def test_without_overrides_every_keyword_has_its_default():
    assert resolved() == {
        'num_frames': 16, 'crop_area': (0.3, 1.0), 'flip': 0.5, 'colors': True, 'camera': 'FRONT', 'fps': None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ('name', 'text', 'value'),
    [
        ('num_frames', '8', 8), ('num_frames', '1e2', 100), ('crop_area', '(0.5, 1)', (0.5, 1)),
        ('crop_area', '[0.5, 1]', (0.5, 1)), ('flip', '0', 0.0), ('colors', 'false', False), ('camera', 'LEFT', 'LEFT'),
        ('camera', '16', '16'), ('fps', '6', 6), ('fps', 'none', None), ('fps', '12.5', 12.5),
    ],
)  # fmt: skip
def test_texts_become_values_of_the_kind_of_the_default(name, text, value):
    found = resolved(**{name: text})[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('num_frames', 'many'), ('num_frames', '2.5'), ('num_frames', 'true'), ('num_frames', '0'), ('colors', '1'),
        ('crop_area', '0.3'), ('crop_area', '(0.3, 0.4, 0.5)'), ('crop_area', "('a', 'b')"), ('flip', 'none'),
        ('crop_area', '(0.5, 0.4)'), ('crop_area', '(0, 1)'), ('crop_area', 'none'), ('flip', '1.5'), ('fps', 'true'),
        ('fps', "{'a': 1}"), ('fps', 'fast'), ('fps', '0'), ('flip', '1e999'), ('camera', ''),
    ],
)  # fmt: skip
def test_other_values_are_refused_in_one_line(name, text):
    with pytest.raises(UserError, match=rf'^--set data\.{name}=.*: it takes .*; the default is ') as error:
        resolved(**{name: text})
    assert '\n' not in str(error.value)


def test_a_schedule_may_have_no_warm_up():
    assert settings.resolve(Schedule(), {'warmup': '0', 'peak_lr': '1e-3'}, 'schedule')['warmup'] == 0
    with pytest.raises(UserError, match=r'schedule\.steps=0: it takes an integer of at least 1; the default is 40000'):
        settings.resolve(Schedule(), {'steps': '0'}, 'schedule')


@pytest.mark.parametrize('name', BENCHMARKS)
def test_every_benchmark_takes_its_own_defaults(name):
    benchmark = BENCHMARKS[name]
    parts = (*benchmark.datasets().values(), benchmark.make_task(), benchmark.make_schedule())
    for part in parts:
        defaults = settings.resolve(part, {}, 'part')
        texts = {n: str(value) for n, value in defaults.items() if not dataclasses.is_dataclass(value)}
        assert settings.resolve(part, texts, 'part') == defaults


def test_an_unknown_setting_is_refused_with_those_that_there_are():
    with pytest.raises(UserError) as error:
        resolved(strid='2')
    names = 'num_frames, crop_area, flip, colors, camera, fps'
    assert str(error.value) == f'--set data.strid=2: is not a setting; take one of {names}'


def test_root_and_split_are_no_settings():
    with pytest.raises(UserError, match='is not a setting'):
        resolved(split='train')


def test_a_callable_without_settings_says_so():
    with pytest.raises(UserError, match=r'data\.stride=2: is not a setting; leave it out'):
        settings.resolve(lambda root, split: None, {'stride': '2'}, 'data')


def test_an_instance_gives_its_own_values_as_defaults():
    task = Task(heads=16)
    values = settings.resolve(task, {'log_scales': '(0, -1)'}, 'task')
    assert values == {'heads': 16, 'log_scales': (0, -1), 'inner': Inner()}
    assert settings.resolve(Task, {}, 'task')['heads'] == 8
    assert dataclasses.replace(task, **values) == Task(16, (0, -1))


def test_settings_within_settings_are_named_with_a_dot():
    assert settings.resolve(Task(), {'inner.top_k': '10'}, 'task')['inner'] == Inner(top_k=10)
    with pytest.raises(UserError, match=r'--set task\.inner\.topk=1: .* take one of size, top_k'):
        settings.resolve(Task(), {'inner.topk': '1'}, 'task')
    with pytest.raises(UserError, match=r'take one of heads, log_scales, inner\.size, inner\.top_k'):
        settings.resolve(Task(), {'inner': '1'}, 'task')
