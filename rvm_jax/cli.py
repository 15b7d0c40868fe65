"""Finds the command, shows help, and turns a user's mistake into one line and an exit code."""

import argparse
import contextlib
import importlib
import os
import sys
from typing import Any, NoReturn

from rvm_jax import huge_pages

SIGPIPE_CODE = 141  # what a shell reports for a program whose reader went away
COMMANDS = {
    'demo': 'render videos, pre-train a tiny model on them, and write a report',
    'train': 'pre-train from videos; the same line resumes',
    'prepare': 'turn videos into shards that training reads many times faster',
    'export': 'write any model as an export folder or a released RVM .npz',
    'features': 'features of videos, one .npz each',
    'visualize': 'pictures and videos of what a model sees',
    'probe': 'how good the features of a model are: a readout on them, or labels propagated by them',
    'compare': 'many probes in the table of a paper: a row a model, a column a task',
    'sweep': 'train the cells of an ablation, probe each, one table and one plot',
    'plan': 'memory, time and what limits a step, before any device is paid for; TPU slices compiled ahead of time',
    'doctor': 'is this machine, or every process of a launch, ready to train, and what will be slow',
    'info': 'what a config, workdir, export, .npz, folder of shards or video is',
}
TRAINING = ('demo', 'train')  # commands that may compute for hours on a CPU


def main(argv: list[str] | None = None) -> NoReturn:
    """Run `rvm COMMAND ...` and end the process with its exit code."""
    _open_streams()
    is_program = argv is None  # not called by a program, which must not be started again
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ('-h', '--help', 'help'):
        print(overview())
        sys.exit(0)
    if argv[0] not in COMMANDS:
        _end(f'rvm {argv[0]}: is not a command; take one of {", ".join(COMMANDS)}', 2)
    if is_program and argv[0] in TRAINING:
        huge_pages.restart()
    sys.exit(run(argv[0], argv[1:]))


def run(name: str, argv: list[str]) -> int:
    """Run one command; returns its exit code."""
    from rvm_jax.arithmetic import fix_environment
    from rvm_jax.terminal import log_to_terminal

    log_to_terminal()  # what modules log as warnings looks like the notices of commands
    fix_environment()
    command = importlib.import_module(f'rvm_jax.{name}')
    args = _parse(name, command, argv)
    try:
        command.run(args)
    except BrokenPipeError:  # `rvm info ... | head`
        with contextlib.suppress(OSError):  # standard output may be no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SIGPIPE_CODE
    except (Exception, KeyboardInterrupt) as error:
        line, code = _explained(error)
        if line is None:  # a mistake of ours: its traceback is needed
            raise
        log_to_terminal().error('rvm %s: %s', name, line)
        return code
    return 0


def _parse(name, command, argv):
    """The arguments of a command: its own flags, config overrides, and flags for a library that it runs."""
    parser = argparse.ArgumentParser(
        f'rvm {name}',
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    args, rest = parser.parse_known_args(joined(argv))
    args.overrides = [text.removeprefix('--config.') for text in rest if text.startswith('--config.')]
    unknown = [text for text in rest if not (text.startswith('--config.') and 'config' in args)]
    for flag, value in vars(args).items():
        setattr(args, flag, expand_home(value))
    if getattr(args, getattr(command, 'PASSES_ON', ''), None):
        args.passed_on = unknown
    elif unknown:
        parser.error(f'unrecognized arguments: {" ".join(unknown)}{_hint(unknown) if "config" in args else ""}')
    return args


def joined(argv: list[str]) -> list[str]:
    """Arguments with `--config.KEY VALUE` as `--config.KEY=VALUE`; a key without a value stays as it is."""
    found: list[str] = []
    is_open = False
    for text in argv:
        if is_open and not text.startswith('--'):
            found[-1] += f'={text}'
            is_open = False
        else:
            found.append(text)
            is_open = text.startswith('--config.') and '=' not in text
    return found


def _hint(unknown):
    """For `--data.path=x` and `--lr 1e-3`: what to write instead."""
    from rvm_jax import config, key_hints

    key = unknown[0].split('=')[0].lstrip('-')
    known = config.flatten(config.default())
    if key in known:
        return f'; write --config.{key}=VALUE'
    meant = key_hints.OTHER_NAMES.get(key) or (key_hints.hint(key, known) if '.' in key else None)
    return f'; keys of a recipe are set with --config.KEY=VALUE: {meant}' if meant else ''


def expand_home(value: Any) -> Any:
    """A value of a flag, or a list of them, with ~ as the folder it stands for, also in KEY=~/VALUE.

    A shell does that for `--output ~/x`, and not for `--output=~/x`; each flag of ours has the same meaning here.
    """
    if isinstance(value, list | tuple):
        return type(value)(map(expand_home, value))
    if not isinstance(value, str):
        return value
    key, equals, path = ('', '', value) if value.startswith('~') else value.partition('=')
    is_home = path == '~' or path.startswith('~/')
    return f'{key}{equals}{os.path.expanduser(path)}' if is_home and '/' not in key else value


def _explained(error):
    """(what a user is told of an error that ended a command, exit code); (None, 0) where it is a mistake of ours."""
    from rvm_jax import tested_versions
    from rvm_jax.errors import ConfigErrors, Stopped, Unavailable, UserError, printable
    from rvm_jax.storage import files

    if isinstance(error, (UserError, ConfigErrors)):
        return str(error), error.exit_code
    if isinstance(error, (Stopped, Unavailable)):
        return printable(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return 'stopped by Ctrl-C', 130
    if isinstance(error, tested_versions.CHANGED):
        told = tested_versions.explain(error)
        return (None, 0) if told is None else (str(told), told.exit_code)
    if isinstance(error, OSError) and files.may_pass(error):
        return str(Unavailable(error.filename or 'a disk or network', error.strerror)), Unavailable.exit_code
    if isinstance(error, OSError) and error.filename is not None:
        return printable(f'{error.filename}: {error.strerror}; check the path and its permissions'), 2
    return None, 0


def overview() -> str:
    """What `rvm --help` shows."""
    width = max(map(len, COMMANDS))
    lines = '\n'.join(f'  {name:{width}}  {text}' for name, text in COMMANDS.items())
    return f'usage: rvm COMMAND ...\n\n{lines}\n\nrvm COMMAND --help explains one, with an example.'


def _open_streams():
    """Open standard streams that are closed (`rvm ... 2>&-`) on the null device.

    Otherwise the next files that are opened get their numbers, and what JAX and signal handlers print goes into them.
    """
    for number, name in enumerate(('stdin', 'stdout', 'stderr')):
        if getattr(sys, name) is None:  # Python found it closed
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, 'w' if number else 'r', encoding='utf-8', closefd=False))
    for stream in (sys.stdout, sys.stderr):  # a terminal that knows ASCII alone must not end a command
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')


def _end(message, code):
    print(message, file=sys.stderr)
    sys.exit(code)
