"""The steps in a checkpoint folder: which there are, which is good, which go. The disk is asked every time.

A bucket cannot rename: there Orbax writes into the step's own folder, and COMMITTED into it at the very end, so that
an unfinished save is a numbered folder without it. It is written last, after our manifest, and deleted first.
"""

import contextlib
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator

from rvm_jax.errors import Unavailable, UserError, printable
from rvm_jax.storage import files
from rvm_jax.terminal import say
from rvm_jax.training import checksums

LEFTOVER = '.orbax-checkpoint-tmp'  # how Orbax marks a step that is not complete
COMMITTED = 'commit_success.txt'  # how it marks one that is
SHOWN = 5  # names that a message lists


def step_path(folder, step):
    """Where a step lies."""
    return os.path.join(folder, str(step))


def check_place(workdir: str) -> None:
    """Raise UserError for a bucket's path in which checkpoints could not be read; `without_wildcards` says why."""
    if files.is_remote(workdir) and glob.has_magic(workdir):
        raise UserError(
            workdir, 'has one of the characters * ? [ in its path, and checkpoints there cannot be read',
            'choose a path without them',
        )  # fmt: skip


@contextlib.contextmanager
def without_wildcards(folder: str) -> Iterator[str]:
    """Yield a name of a folder on a disk under which Orbax finds what is in it.

    Orbax looks for its files with glob and escapes nothing: below a folder such as runs[1] it finds none, and says
    nothing. There it is given a link to the folder, which lies in a temporary folder.
    """
    if not glob.has_magic(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix='rvm_jax_') as place:
        if glob.has_magic(place):
            raise UserError(place, 'has one of the characters * ? [ in its path, and so has the workdir',
                            'set TMPDIR to a folder without them')  # fmt: skip
        link = os.path.join(place, os.path.basename(folder))
        os.symlink(folder, link)
        yield link


def find_steps(folder):
    """The steps that have a manifest, oldest first."""
    needed = {checksums.NAME, COMMITTED} if files.is_remote(folder) else {checksums.NAME}
    return [step for step in _numbered(folder) if needed <= set(files.names(step_path(folder, step)))]


def find_good_step(folder, step=None):
    """The newest step that passes its checksums, or the given one, as (step, manifest); None if there are no steps.

    Each damaged step on the way is named. Raises UserError when all are damaged, or the given one is or is absent.
    """
    steps = find_steps(folder)
    if step is not None:
        if step not in steps:
            raise UserError(f'step {step}', f'is not in {folder}', f'choose from {steps}')
        steps = [step]
    for candidate in reversed(steps):
        try:
            return candidate, checksums.verify(step_path(folder, candidate))
        except checksums.Damaged as error:
            damage = error
            say(printable(f'step {candidate} is damaged and not used: {damage}'))
    if steps:
        raise UserError(folder, f'no undamaged step ({damage})', 'restore it from a copy, or choose another --workdir')
    if _numbered(folder):
        reason = f'no step with {checksums.NAME} (found {some_of(_numbered(folder))})'
        raise UserError(folder, reason, 'choose another --workdir')
    return None


def report_strays(folder):
    """Say in one line what lies in the folder and is no step with a manifest."""
    strays = sorted(set(files.names(folder)) - {str(step) for step in find_steps(folder)})
    if strays:
        say(f'{folder}: ignored, not steps of this run: {some_of(strays)}')


def unfinished(folder, step='*'):
    """The folders of saves and deletions that did not come to their end."""
    if not files.is_remote(folder):
        return glob.glob(os.path.join(glob.escape(folder), f'{step}{LEFTOVER}*'))
    paths = [step_path(folder, number) for number in (_numbered(folder) if step == '*' else [step])]
    return [path for path in paths if COMMITTED not in files.names(path)]


def try_writing(folder, step):
    """Raise OSError if a folder for this step cannot be made, as when the disk is full or must not be written."""
    if not files.is_remote(folder):
        path = f'{step_path(folder, step)}{LEFTOVER}-tried'
        os.mkdir(path)
        os.rmdir(path)


def remove_unfinished(folder):
    """Delete them. Only for who holds the run lock: they look the same while a save is in flight."""
    for path in unfinished(folder):
        if files.is_remote(path):
            _remove(path, 'unfinished save')
        else:
            shutil.rmtree(path, ignore_errors=True)


def rotate(folder, newest, keep, keep_every):
    """Delete steps before `newest`, the one just completed, so that `keep` remain with it.

    Unless keep_every is 0 its multiples stay too. Steps after the newest, which a run leaves behind when it goes back
    because they are damaged, do not count: they must not push out the good ones.
    """
    try:
        steps = [step for step in find_steps(folder) if step <= newest]
    except (OSError, Unavailable) as error:
        return say(f'old steps not deleted: {error}')
    for step in steps[: -max(1, keep)]:
        if not (keep_every and step % keep_every == 0):
            _remove(step_path(folder, step), 'old step')


def _remove(path, what):
    """Delete a step in an order in which a half deleted one never looks like a step."""
    try:
        if files.is_remote(path):
            files.remove(os.path.join(path, COMMITTED))
            files.remove_folder(path)
        else:
            aside = f'{path}{LEFTOVER}-deleted'
            os.rename(path, aside)
            shutil.rmtree(aside)
    except OSError as error:
        say(f'{path}: {what} not deleted ({error.strerror})')
    except Unavailable as error:
        say(f'{path}: {what} not deleted ({error.reason})')


def some_of(names):
    """The first few of many names."""
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    return ', '.join(map(str, names[:SHOWN])) + more


def _numbered(folder):
    return sorted(int(name) for name in files.names(folder) if re.fullmatch('0|[1-9][0-9]*', name))
