"""Works until a signal comes, then saves: wait_for_a_signal.py [slow]."""

import sys
import time

from rvm_jax.errors import Stopped
from rvm_jax.signals import StopRequest

try:
    with StopRequest() as stop:
        for step in range(1, 10**9):
            stop.current = f'step {step}, then saving and stopping'
            if step == 1:
                print('ready', flush=True)
            time.sleep(0.01)
            stop.agree([stop.kind])
            if stop.agreed:
                print('asked', flush=True)
                time.sleep(0 if len(sys.argv) == 1 else 60)
                print('saved', flush=True)
                raise stop.ended(f'saved at step {step}')
except Stopped as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
