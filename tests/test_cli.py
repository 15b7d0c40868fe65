import errno
import os
import pathlib
import subprocess
import sys
import types

import pytest

from rvm_jax import cli
from rvm_jax.errors import ConfigErrors, DataError, Diverged, Interrupted, Stopped, UserError

MISTAKE = UserError('--flag 3', 'is wrong', 'make it 4')


@pytest.fixture
def fake(monkeypatch):
    """fake(outcome): a command that raises the outcome, or calls it with its arguments."""

    def make(outcome, has_config=False):
        def run(args):
            if isinstance(outcome, BaseException):
                raise outcome
            outcome(args)

        def add_arguments(parser):
            parser.add_argument('--number', type=int)
            if has_config:
                parser.add_argument('--config')

        module = types.ModuleType('rvm_jax.fake', 'Does nothing.')
        module.run, module.add_arguments = run, add_arguments
        monkeypatch.setitem(sys.modules, 'rvm_jax.fake', module)
        monkeypatch.setitem(cli.COMMANDS, 'fake', 'does nothing')

    return make


def test_importing_the_package_imports_nothing_heavy():
    code = (
        'import sys; before = set(sys.modules); import rvm_jax; '
        'print({name.split(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)'
    )
    assert (
        subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
        == "{'rvm_jax'}\n"
    )


def test_help_of_every_command_has_an_example_and_starts_no_jax():
    code = """if True:
        import contextlib, io, sys
        from rvm_jax import cli
        for name in cli.COMMANDS:
            text = io.StringIO()
            with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
                cli.main([name, '--help'])
            assert f'rvm {name}' in text.getvalue() and 'Example' in text.getvalue(), name
            print(name, [module for module in ('jax', 'flax', 'av', 'cv2') if module in sys.modules])
    """
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stderr == ''
    assert done.stdout.splitlines() == [f'{name} []' for name in cli.COMMANDS]


def test_every_command_is_a_module_too():
    done = subprocess.run([sys.executable, '-m', 'rvm_jax.train', '--help'], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith('usage: rvm train')


@pytest.mark.parametrize(
    ('outcome', 'code', 'message'),
    [
        (lambda args: None, 0, ''),
        (MISTAKE, 2, 'rvm fake: --flag 3: is wrong; make it 4\n'),
        (ConfigErrors([MISTAKE, MISTAKE]), 2, f'rvm fake: {MISTAKE}\n{MISTAKE}\n'),
        (DataError('clip.mp4', 'is empty', 'remove it'), 65, 'rvm fake: clip.mp4: is empty; remove it\n'),
        (Stopped('stopped at step 5'), 75, 'rvm fake: stopped at step 5\n'),
        (Diverged('step 9', 'not finite', 'lower the rate'), 76, 'rvm fake: step 9: not finite; lower the rate\n'),
        (Interrupted('saved step 5'), 130, 'rvm fake: saved step 5\n'),
        (
            OSError(errno.EIO, 'I/O'),
            75,
            'rvm fake: a disk or network: does not answer (I/O); start again once it does\n',
        ),
        (KeyboardInterrupt(), 130, 'rvm fake: stopped by Ctrl-C\n'),
        (BrokenPipeError(), 141, ''),
    ],
    ids=['done', 'mistake', 'config', 'data', 'stopped', 'diverged', 'interrupted', 'disk', 'ctrl-c', 'closed pipe'],
)
def test_how_a_command_ends_is_its_exit_code_and_one_line(fake, capsys, outcome, code, message):
    fake(outcome)
    with pytest.raises(SystemExit) as ended:
        cli.main(['fake'])
    assert ended.value.code == code and capsys.readouterr().err == message


def test_a_mistake_of_ours_keeps_its_traceback(fake):
    fake(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(['fake'])


def test_config_overrides_are_handed_on(fake):
    seen = []
    fake(seen.append, has_config=True)
    assert cli.run('fake', ['--config', 'x.py', '--config.a.b=1', '--number', '3', '--config.c=']) == 0
    assert seen[0].overrides == ['a.b=1', 'c='] and seen[0].number == 3 and seen[0].config == 'x.py'


@pytest.mark.parametrize(
    ('words', 'overrides'),
    [
        (['--config.a', '1', '--config.b.c=2'], ['a=1', 'b.c=2']),
        (['--config.a', '-1', '--number', '3'], ['a=-1']),
        (['--config.a', '--config.b', '2'], ['a', 'b=2']),  # config.py says that a has no value
        (['--config.a', '', '--config.b=', '--number=3'], ['a=', 'b=']),
        (['--config', 'x.py', '--config.a', 'b=c'], ['a=b=c']),
    ],
)
def test_a_key_and_its_value_may_be_two_words(fake, words, overrides):
    asked = []
    fake(asked.append, has_config=True)
    assert cli.run('fake', words) == 0
    assert asked[0].overrides == overrides


@pytest.mark.parametrize(
    ('flag', 'hint'),
    [
        ('--data.path=x', 'write --config.data.path=VALUE'),
        ('--lr', 'keys of a recipe are set with --config.KEY=VALUE: did you mean optim.peak_lr?'),
        ('--data.paht=x', 'did you mean data.path?'),
        ('--nonsense', '--nonsense\n'),
    ],
)
def test_an_unknown_flag_that_is_a_key_has_a_hint(fake, capsys, flag, hint):
    fake(print, has_config=True)
    with pytest.raises(SystemExit) as ended:
        cli.run('fake', [flag])
    assert ended.value.code == 2 and hint in capsys.readouterr().err


@pytest.mark.parametrize('words', [['--nonsense'], ['extra'], ['--config.a=1'], ['--number', 'x'], ['--num', '3']])
def test_what_a_command_does_not_know_is_refused(fake, capsys, words):
    fake(lambda args: None)
    with pytest.raises(SystemExit) as ended:
        cli.main(['fake', *words])
    assert ended.value.code == 2 and words[0] in capsys.readouterr().err


def test_an_unknown_command_lists_those_there_are(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(['trian'])
    message = capsys.readouterr().err
    assert ended.value.code == 2 and 'rvm trian: is not a command; ' in message and 'train' in message


@pytest.mark.parametrize('words', [[], ['--help'], ['help']])
def test_without_a_command_all_of_them_are_shown(capsys, words):
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and all(f'  {name} ' in shown for name in cli.COMMANDS)


@pytest.mark.parametrize(('given', 'meant'), [
    ('~/x', '/home/me/x'), ('a.b=~/x', 'a.b=/home/me/x'), (['~/x', 'y'], ['/home/me/x', 'y']),
    ([('data.scale', '~/x')], [('data.scale', '/home/me/x')]), ('~', '/home/me'), ('a~/x', 'a~/x'), (None, None),
    ('~nobody-by-this-name/x', '~nobody-by-this-name/x'), ('dir/a=~/x', 'dir/a=~/x'), (3, 3), ("glob/~*", "glob/~*"),
])  # fmt: skip
def test_home_is_expanded_wherever_a_flag_is_given(monkeypatch, given, meant):
    monkeypatch.setenv('HOME', '/home/me')
    assert cli.expand_home(given) == meant


def test_home_is_expanded_in_flags_that_a_shell_leaves_alone(fake, monkeypatch):
    monkeypatch.setenv('HOME', '/home/me')
    seen = []
    fake(seen.append, has_config=True)
    assert cli.run('fake', ['--config=~/x.py', '--config.data.path=~/v']) == 0
    assert (seen[0].config, seen[0].overrides) == ('/home/me/x.py', ['data.path=/home/me/v'])


def test_a_terminal_that_knows_ascii_alone_gets_escapes(tmp_path):
    """PYTHONIOENCODING=ascii, as of an old cluster: names of files are shown, and no command ends by them."""
    (tmp_path / 'кот').mkdir()
    environment = {**os.environ, 'PYTHONIOENCODING': 'ascii'}
    command = [sys.executable, '-c', 'from rvm_jax import cli; cli.main()', 'info', 'configs/tiny.py']
    recipe = tmp_path / 'кот' / 'tiny.py'
    recipe.write_text(pathlib.Path('configs/tiny.py').read_text())
    done = subprocess.run([*command[:-1], str(recipe)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ''
    assert '\\u043a\\u043e\\u0442/tiny.py' in done.stdout
