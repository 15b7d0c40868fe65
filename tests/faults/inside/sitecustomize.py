"""Imported by Python at the start of each process of a fault test: observes the real command, or makes a fault in it.

RVM_SEEN=FILE               each batch given to a training step becomes a line: step, videos, checksum of the pixels
RVM_HOLD=5,8                before these steps it makes FILE.held_5, FILE.held_8 and waits for FILE.go_5, FILE.go_8
RVM_POISON=3:nan,4:1e19     in the batches of these steps each target pixel has this value
RVM_CLOCK=3:-3600,6:86400   from these steps on the wall clock is off by so many seconds
RVM_DELETE=fails            old checkpoints cannot be deleted
RVM_DELETE=pauses           the process prints a line in the middle of deleting one, and waits
RVM_FULL=events             no space for files with this in their name: what is written to them goes to /dev/full
"""

import builtins
import importlib.abc
import importlib.util
import json
import os
import sys
import time
import types
import zlib

HOOKS = {}
REAL_TIME, REAL_OPEN = time.time, open


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls a hook with its module when the module has been imported."""

    def find_spec(self, name, path, target=None):
        if name not in HOOKS:
            return None
        hook, spec = HOOKS.pop(name), importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (execute(module), hook(module))
        return spec


def strike_batches(batch_feed):
    """Training's own batches, not those of evaluations."""
    real = batch_feed.sharding
    poison, jumps = numbers_by_step('RVM_POISON'), numbers_by_step('RVM_CLOCK')

    def place_batch(mesh, batch):
        step = batch['step'] + 1
        if 'RVM_SEEN' in os.environ:
            pixels = batch['source_BTHWC'].tobytes() + batch['target_BFHWC'].tobytes()
            line = {'step': step, 'videos': batch['record_B'].tolist(), 'pixels': zlib.crc32(pixels)}
            with open(os.environ['RVM_SEEN'], 'a') as file:
                file.write(f'{json.dumps(line)}\n')
        if str(step) in os.environ.get('RVM_HOLD', '').split(','):
            hold(os.environ['RVM_SEEN'], step)
        if step in jumps:
            time.time = lambda: REAL_TIME() + jumps[step]
        if step in poison:
            batch = batch | {'target_BFHWC': batch['target_BFHWC'].astype('float32') * 0 + poison[step]}
        return real.place_batch(mesh, batch)

    batch_feed.sharding = types.SimpleNamespace(**vars(real) | {'place_batch': place_batch})


def hold(path, step):
    open(f'{path}.held_{step}', 'w').close()
    while not os.path.exists(f'{path}.go_{step}'):
        time.sleep(0.02)


def numbers_by_step(name):
    pairs = [pair.split(':') for pair in os.environ.get(name, '').split(',') if pair]
    return {int(step): float(number) for step, number in pairs}


def strike_deletion(checkpoint_files):
    remove = checkpoint_files.shutil.rmtree

    def rmtree(path, **options):
        if path.endswith('-deleted'):
            if os.environ['RVM_DELETE'] == 'fails':
                raise PermissionError(13, 'Permission denied', path)
            os.unlink(os.path.join(path, '_CHECKPOINT_METADATA'))
            print('in the middle of deleting', flush=True)
            time.sleep(600)
        remove(path, **options)

    checkpoint_files.shutil = types.SimpleNamespace(**vars(checkpoint_files.shutil) | {'rmtree': rmtree})


def open_full(path, mode='r', *args, **options):
    is_full = 'r' not in mode and os.environ['RVM_FULL'] in os.path.basename(str(path))
    return REAL_OPEN('/dev/full' if is_full else path, mode, *args, **options)


if {'RVM_SEEN', 'RVM_POISON', 'RVM_CLOCK'} & set(os.environ):
    HOOKS['rvm_jax.training.batch_feed'] = strike_batches
if 'RVM_DELETE' in os.environ:
    HOOKS['rvm_jax.training.checkpoint_files'] = strike_deletion
if 'RVM_FULL' in os.environ:
    builtins.open = open_full
sys.meta_path.insert(0, AfterImport())
