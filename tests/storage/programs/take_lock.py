"""Takes the lock of a folder or bucket once told to, and holds it until told again: take_lock.py WORKDIR."""

import sys

from rvm_jax.errors import UserError
from rvm_jax.storage.run_lock import run_lock

print('ready', flush=True)
sys.stdin.readline()
try:
    with run_lock(sys.argv[1]):
        print('mine', flush=True)
        sys.stdin.readline()
except UserError:
    print('refused', flush=True)
