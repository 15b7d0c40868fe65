"""Settings of JAX that change the types, shapes or random numbers of everything: the same in every run.

A shell, a notebook or a cluster's module may export them. A run that took them would have another state (float64
moments, keys of another length), and could only be resumed from the same shell.
"""

import contextlib
import os
from collections.abc import Iterator

from rvm_jax.terminal import say

SETTINGS = {
    'jax_enable_x64': False,
    'jax_default_prng_impl': 'threefry2x32',
    'jax_threefry_partitionable': True,
    'jax_enable_custom_prng': False,
    'jax_random_seed_offset': 0,
    'jax_numpy_dtype_promotion': 'standard',
    'jax_numpy_rank_promotion': 'allow',
}


def fix_environment() -> None:
    """Take these settings out of the environment of this process and those that it starts, before JAX is imported.

    Says which were there with another value.
    """
    for name, ours in SETTINGS.items():
        given = os.environ.pop(name.upper(), None)
        if given is not None and _meaning(given) != _meaning(str(ours)):
            say(f'{name.upper()}={given} is not used, because it would change the state of a run')


def _meaning(text):
    """A value of a variable, where JAX has several words for one."""
    text = text.strip().lower()
    return {'': '0', 'false': '0', 'off': '0', 'no': '0', 'f': '0', 'n': '0'}.get(
        text, '1' if text in ('true', 'on', 'yes', 't', 'y') else text
    )


@contextlib.contextmanager
def our_settings() -> Iterator[None]:
    """Within this context JAX has these settings, whatever the program around it chose."""
    import jax

    before = {name: getattr(jax.config, name) for name in SETTINGS}
    for name, value in SETTINGS.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
