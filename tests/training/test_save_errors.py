"""What Orbax, and asyncio on its behalf, say of a failure that we have already reported."""

import asyncio
import gc
import logging

import pytest

from rvm_jax.training.save_errors import quiet_orbax


def forget_a_failure_of(path):
    """A future whose exception, raised in a file at path, nobody reads before it is collected."""
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    try:
        exec(compile('raise ValueError("no room")', path, 'exec'), {})
    except ValueError as error:
        future.set_exception(error)
    loop.close()
    del future
    gc.collect()


@pytest.mark.parametrize(
    ('path', 'lines'), [('/lib/orbax/checkpoint/writing.py', 0), ('/lib/gcsfs/core.py', 0), ('/lib/other.py', 1)]
)
def test_asyncio_is_quiet_about_writes_of_orbax_alone(path, lines, caplog):
    with quiet_orbax():
        forget_a_failure_of(path)
    assert len([record for record in caplog.records if record.name == 'asyncio']) == lines


def test_log_records_come_back_afterwards(caplog):
    with quiet_orbax():
        pass
    forget_a_failure_of('/lib/orbax/checkpoint/writing.py')
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_what_is_collected_last_is_collected_quietly(caplog):
    loop = asyncio.new_event_loop()
    with quiet_orbax():
        future = loop.create_future()
        try:
            exec(compile('raise ValueError("no room")', '/lib/orbax/checkpoint/writing.py', 'exec'), {})
        except ValueError as error:
            future.set_exception(error)
        ring = [future]
        ring.append(ring)  # only the collector finds it
        loop.close()
        del future, ring
    gc.collect()
    assert not caplog.records
