"""Writes a folder, and dies or fails on the way: write_folder.py PATH TEXT THEN."""

import os
import signal
import sys

from rvm_jax.storage.atomic import atomic_write


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


path, text, then = sys.argv[1:]
if then == 'die between':  # the old folder was moved aside, the new one has not got its name
    os.replace = die
with atomic_write(path) as partial:
    os.mkdir(partial)
    with open(os.path.join(partial, 'text'), 'w') as file:
        file.write(text)
    if then == 'die':
        die()
    if then == 'fail':
        sys.exit(1)
