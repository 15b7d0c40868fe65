"""A training process has huge pages, and its workers do not ask for them."""

import os
import subprocess
import sys

import pytest

from rvm_jax import huge_pages

PROGRAM = """
import os, threading
from rvm_jax import huge_pages
before = os.getpid()
huge_pages.restart()
held = []
thread = threading.Thread(target=lambda: held.append(bytearray(b'x') * 2**25))  # not the main thread, as XLA's
thread.start(); thread.join()
huge = sum(int(line.split()[1]) for line in open('/proc/self/smaps') if line.startswith('AnonHugePages'))
print(huge, os.environ.get('GLIBC_TUNABLES'))
"""


def run(**environment):
    done = subprocess.run([sys.executable, '-c', PROGRAM], env=os.environ | environment, capture_output=True, text=True)
    huge, variable = done.stdout.split()
    return int(huge), variable


@pytest.mark.skipif(not huge_pages._is_possible(), reason='this machine has no huge pages for those who ask')
def test_the_process_has_huge_pages_and_its_children_do_not_ask_for_them():
    huge, variable = run()
    assert huge >= 2**14 and variable == 'None'  # kB, half of what it holds at least


def test_what_a_user_has_set_stays():
    assert run(GLIBC_TUNABLES='glibc.malloc.check=0') == (0, 'glibc.malloc.check=0')


def test_a_system_without_them_starts_as_it_is(monkeypatch):
    monkeypatch.setattr(huge_pages, 'POLICY', '/does/not/exist')
    monkeypatch.delenv('GLIBC_TUNABLES', raising=False)
    huge_pages.restart()
    assert 'GLIBC_TUNABLES' not in os.environ
