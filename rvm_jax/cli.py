"""Finds the command, shows help, and turns a user's mistake into one line and an exit code."""

import argparse
import contextlib
import importlib
import os
import sys
from typing import Any

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
    'plan': 'memory, time and what binds, before any device is paid for; TPU slices compiled ahead of time',
    'doctor': 'is this machine, or every process of a launch, ready to train, and what will be slow',
    'info': 'what a config, workdir, export, .npz, folder of shards or video is',
}


def main(argv=None):
    """Run `rvm COMMAND ...` and end the process with its exit code."""
    _open_streams()
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ('-h', '--help', 'help'):
        print(overview())
        sys.exit(0)
    if argv[0] not in COMMANDS:
        _end(f'rvm {argv[0]}: there is no such command; take one of {", ".join(COMMANDS)}', 2)
    sys.exit(run(argv[0], argv[1:]))


def run(name, argv):
    """Run one command; returns its exit code."""
    from rvm_jax import arithmetic, tested_versions
    from rvm_jax.errors import ConfigErrors, Stopped, Unavailable, UserError, printable
    from rvm_jax.storage import files
    from rvm_jax.terminal import say

    arithmetic.fix_environment()
    command = importlib.import_module(f'rvm_jax.{name}')
    parser = argparse.ArgumentParser(
        f'rvm {name}',
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    args, rest = parser.parse_known_args(argv)
    args.overrides = [text.removeprefix('--config.') for text in rest if text.startswith('--config.')]
    unknown = [text for text in rest if not (text.startswith('--config.') and 'config' in args)]
    for flag, value in vars(args).items():
        setattr(args, flag, expand_home(value))
    if getattr(args, getattr(command, 'PASSES_ON', ''), None):
        args.passed_on = unknown
    elif unknown:
        parser.error(f'unrecognized arguments: {" ".join(unknown)}')
    try:
        command.run(args)
    except (UserError, ConfigErrors) as error:
        say(f'rvm {name}: {error}')
        return error.exit_code
    except (Stopped, Unavailable) as error:
        say(f'rvm {name}: {printable(error)}')
        return error.exit_code
    except tested_versions.CHANGED as error:
        if (told := tested_versions.explain(error)) is None:
            raise
        say(f'rvm {name}: {told}')
        return told.exit_code
    except KeyboardInterrupt:
        say(f'rvm {name}: stopped by Ctrl-C')
        return 130
    except BrokenPipeError:  # `rvm info ... | head`
        with contextlib.suppress(OSError):  # standard output may be no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SIGPIPE_CODE
    except OSError as error:
        if files.may_pass(error):
            say(f'rvm {name}: {Unavailable(error.filename, error.strerror)}')
            return Unavailable.exit_code
        if error.filename is None:
            raise
        reason = printable(f'{error.filename}: {error.strerror}; check the path and its permissions')
        say(f'rvm {name}: {reason}')
        return 2
    return 0


def expand_home(value: Any) -> Any:
    """A value of a flag, or a list of them, with ~ as the folder it stands for, also in KEY=~/VALUE.

    A shell does that for `--output ~/x`, and not for `--output=~/x`; all flags are given the same meaning here.
    """
    if isinstance(value, list | tuple):
        return type(value)(map(expand_home, value))
    if not isinstance(value, str):
        return value
    key, equals, rest = value.partition('=~')
    if equals and '/' not in key:
        return f'{key}={os.path.expanduser("~" + rest)}'
    return os.path.expanduser(value)


def overview():
    """What `rvm --help` shows."""
    width = max(map(len, COMMANDS))
    lines = '\n'.join(f'  {name:{width}}  {text}' for name, text in COMMANDS.items())
    return f'usage: rvm COMMAND ...\n\n{lines}\n\nrvm COMMAND --help explains one, with an example.'


def _open_streams():
    """Lead standard streams that are closed (`rvm ... 2>&-`) to the null device.

    Their numbers would go to the next files that are opened, and what JAX and signal handlers print would go into them.
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
