"""The steps in a checkpoint folder: which exist, which are good, which are deleted. Read from the disk every time.

A bucket cannot rename. There Orbax writes into the step's own folder, and at the very end the file COMMITTED, so an
unfinished save is a numbered folder without it. It is written last, after our manifest, and deleted first.
"""

import contextlib
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from rvm_jax.errors import Unavailable, UserError, printable
from rvm_jax.storage import checksums, files
from rvm_jax.terminal import say

LEFTOVER = '.orbax-checkpoint-tmp'  # how Orbax marks a step that is not complete
COMMITTED = 'commit_success.txt'  # how it marks one that is complete, in a bucket
SHOWN = 5  # names that a message lists


def step_path(folder: str, step: int | str) -> str:
    """The folder of a step."""
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
    check_place(folder)
    if not glob.has_magic(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix='rvm_jax_') as place:
        if glob.has_magic(place):
            raise UserError(place, 'has one of the characters * ? [ in its path, and so has the workdir',
                            'set TMPDIR to a folder without them')  # fmt: skip
        link = os.path.join(place, os.path.basename(folder))
        keep_link(folder, link)
        yield link


def keep_link(folder: str, link: str) -> None:
    """Make a link of `without_wildcards` again, if a long run's was cleared away with other temporary files."""
    if link != folder and not os.path.islink(link):
        os.makedirs(os.path.dirname(link), exist_ok=True)
        os.symlink(folder, link)


def find_steps(folder: str) -> list[int]:
    """The steps that have a manifest, oldest first."""
    needed = {checksums.NAME, COMMITTED} if files.is_remote(folder) else {checksums.NAME}
    return [step for step in _numbered(folder) if needed <= set(files.names(step_path(folder, step)))]


def find_good_step(folder: str, step: int | None = None) -> tuple[int, dict[str, Any]] | None:
    """The newest step that passes its checksums, or the given one, as (step, manifest); None if there are no steps.

    Prints a line about each damaged step. Raises UserError if all are damaged, or if the given one is damaged or does
    not exist.
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
        which = 'all checkpoints are' if step is None else f'step {step} is'
        raise UserError(folder, f'{which} damaged ({damage})', 'restore it from a copy, or choose another --workdir')
    if _numbered(folder):
        reason = f'the steps found were not written by rvm_jax ({some_of(_numbered(folder))}: no {checksums.NAME})'
        raise UserError(folder, reason, 'choose another --workdir')
    return None


def report_strays(folder: str) -> None:
    """Print one line about everything in the folder that is not a step with a manifest."""
    strays = sorted(set(files.names(folder)) - {str(step) for step in find_steps(folder)})
    if strays:
        say(f'{folder}: ignored, not steps of this run: {some_of(strays)}')


def unfinished(folder: str, step: int | str = '*') -> list[str]:
    """The folders of saves and deletions that were not finished."""
    if not files.is_remote(folder):
        return glob.glob(os.path.join(glob.escape(folder), f'{step}{LEFTOVER}*'))
    paths = [step_path(folder, number) for number in (_numbered(folder) if step == '*' else [step])]
    return [path for path in paths if COMMITTED not in files.names(path)]


def try_writing(folder: str, step: int) -> None:
    """Raise OSError if a folder for this step cannot be made, because the disk is full or read-only."""
    if not files.is_remote(folder):
        path = f'{step_path(folder, step)}{LEFTOVER}-tried'
        os.mkdir(path)
        os.rmdir(path)


def remove_unfinished(folder: str) -> None:
    """Delete unfinished saves and deletions. Hold the run lock: a save in flight looks the same."""
    for path in unfinished(folder):
        if files.is_remote(path):
            _remove(path, 'unfinished save')
        else:
            shutil.rmtree(path, ignore_errors=True)


def rotate(folder: str, newest: int, keep: int, keep_every: int) -> None:
    """Delete steps before `newest`, the one just completed, so that `keep` remain with it.

    Multiples of keep_every stay too, unless it is 0. Steps after the newest are damaged ones, before which a run has
    resumed. They do not count: otherwise good steps would be deleted because of them.
    """
    try:
        steps = [step for step in find_steps(folder) if step <= newest]
    except (OSError, Unavailable) as error:
        say(f'old steps not deleted: {error}')
        return
    for step in steps[: -max(1, keep)]:
        if not (keep_every and step % keep_every == 0):
            _remove(step_path(folder, step), 'old step')


def _remove(path, what):
    """Delete a step in such an order that a half deleted one never looks like a step."""
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


def some_of(names: Sequence[Any]) -> str:
    """The first few of many names."""
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    return ', '.join(map(str, names[:SHOWN])) + more


def _numbered(folder):
    return sorted(int(name) for name in files.names(folder) if re.fullmatch('0|[1-9][0-9]*', name))
