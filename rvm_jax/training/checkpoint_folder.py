"""The steps in a checkpoint folder: which there are, which is good, which go. The disk is asked every time."""

import glob
import os
import re
import shutil

from rvm_jax.errors import UserError
from rvm_jax.training import checksums
from rvm_jax.training.progress import say

LEFTOVER = '.orbax-checkpoint-tmp'  # how Orbax marks a step that is not complete
SHOWN = 5  # names that a message lists


def step_path(folder, step):
    """Where a step lies."""
    return os.path.join(folder, str(step))


def find_steps(folder):
    """The steps that have a manifest, oldest first."""
    return [step for step in _numbered(folder) if os.path.exists(os.path.join(step_path(folder, step), checksums.NAME))]


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
            say(f'step {candidate} is damaged and not used: {damage}')
    if steps:
        raise UserError(folder, f'no undamaged step ({damage})', 'restore it from a copy, or choose another --workdir')
    if _numbered(folder):
        reason = f'no step with {checksums.NAME} (found {some_of(_numbered(folder))})'
        raise UserError(folder, reason, 'choose another --workdir')
    return None


def name_strays(folder):
    """Say in one line what lies in the folder and is no step with a manifest."""
    strays = sorted(set(_names(folder)) - {str(step) for step in find_steps(folder)})
    if strays:
        say(f'{folder}: ignored, not steps of this run: {some_of(strays)}')


def unfinished(folder, step='*'):
    """The folders of saves and deletions that did not come to their end."""
    return glob.glob(os.path.join(glob.escape(folder), f'{step}{LEFTOVER}*'))


def remove_unfinished(folder):
    """Delete them. Only for who holds the run lock: they look the same while a save is in flight."""
    for path in unfinished(folder):
        shutil.rmtree(path, ignore_errors=True)


def rotate(folder, newest, keep, keep_every):
    """Delete steps before `newest`, the one just completed, so that `keep` remain with it.

    Unless keep_every is 0 its multiples stay too. Steps after the newest, which a run leaves behind when it goes back
    because they are damaged, do not count: they must not push out the good ones.
    """
    steps = [step for step in find_steps(folder) if step <= newest]
    for step in steps[: -max(1, keep)]:
        if not (keep_every and step % keep_every == 0):
            path = step_path(folder, step)
            aside = f'{path}{LEFTOVER}-deleted'  # a half deleted step must not look like one
            try:
                os.rename(path, aside)
                shutil.rmtree(aside)
            except OSError as error:
                say(f'{path}: old step not deleted ({error.strerror})')


def some_of(names):
    """The first few of many names."""
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    return ', '.join(map(str, names[:SHOWN])) + more


def _numbered(folder):
    return sorted(int(name) for name in _names(folder) if re.fullmatch('0|[1-9][0-9]*', name))


def _names(folder):
    return os.listdir(folder) if os.path.isdir(folder) else []
