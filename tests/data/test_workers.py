import json
import os
import subprocess
import sys

import pytest

from rvm_jax.data import workers
from rvm_jax.errors import UserError

SPIN = """
import re
from rvm_jax.data import workers
workers.GRACE_S = 0
with workers.note({folder!r}, 7, 'slow.mp4', 0.5):
    re.match('(a+)+$', 'a' * 60 + 'b')  # spins in C and holds the interpreter
"""


def test_code_that_never_returns_is_ended_and_named(tmp_path):
    process = subprocess.Popen([sys.executable, '-c', SPIN.format(folder=str(tmp_path))], cwd=os.getcwd())
    assert process.wait(60) == 1
    assert workers.notes_of_the_dead(tmp_path) == [workers.Note(process.pid, 7, 'slow.mp4', is_timeout=True)]
    assert os.listdir(tmp_path) == []


def test_a_note_is_there_while_reading(tmp_path):
    with workers.note(tmp_path, 3, 'a\nb.mp4', 60):
        (path,) = tmp_path.iterdir()
        assert json.loads(path.read_text().splitlines()[0]) == [3, 'a\nb.mp4']
    with workers.note(None, 3, 'a.mp4', 60):
        pass


def test_too_little_shared_memory_is_said_before_workers_start():
    with pytest.raises(UserError, match=r'shared memory.*shm-size'):
        workers.check_shared_memory(1 << 60)
    workers.check_shared_memory(0)
