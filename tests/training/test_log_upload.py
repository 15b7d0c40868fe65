import json
import time

import numpy as np
import pytest

from rvm_jax.errors import Unavailable
from rvm_jax.storage import files
from rvm_jax.training import log_upload
from rvm_jax.training.writer import Writer, read_metrics


def picture():
    return np.zeros((6, 9, 3), np.uint8)


def test_at_its_end_the_log_is_in_the_bucket_alone(store):
    with Writer(store.path) as writer:
        writer.scalars(10, {'loss': 0.5})
        writer.image(10, 'panel', picture)
        kept = writer._upload.folder
    assert read_metrics(f'{store.path}/metrics.jsonl') == [{'step': 10, 'loss': 0.5}]
    assert files.names(store.path) == ['images', 'metrics.jsonl', 'tensorboard']
    assert files.names(f'{store.path}/images') == ['panel_00000010.png']
    assert not files.exists(kept)


def test_after_a_kill_the_log_has_each_step_once(store):
    killed = Writer(store.path)
    for step in (10, 20):
        killed.scalars(step, {'loss': 1 / step})
    killed.flush()
    killed.scalars(30, {'loss': 1.0})
    with Writer(store.path, step=20) as writer:
        writer.scalars(30, {'loss': 2.0})
    assert [entry['loss'] for entry in read_metrics(f'{store.path}/metrics.jsonl')] == [0.1, 0.05, 2.0]
    killed._upload._ended.set()


def test_the_log_is_copied_while_the_run_continues(store, monkeypatch):
    monkeypatch.setattr(log_upload, 'EVERY', 0.02)
    with Writer(store.path) as writer:
        writer.scalars(1, {'loss': 1.0})
        while not files.exists(f'{store.path}/metrics.jsonl'):
            time.sleep(0.01)


def test_only_what_changed_is_read_and_copied(store, monkeypatch):
    with Writer(store.path) as writer:
        writer.scalars(1, {'loss': 1.0})
        writer._upload.copy()
        read, reads = files.read, []
        monkeypatch.setattr(files, 'read', lambda path: reads.append(path) or read(path))
        store.fail(1, status=403)
        writer._upload.copy()
        assert store.failed == 0 and reads == []
        store.fail(0)
        writer.scalars(2, {'loss': 1.0})
        writer._upload.copy()
        assert [path.rpartition('/')[2] for path in reads] == ['metrics.jsonl']


def test_before_a_save_only_files_to_continue_are_copied(store):
    with Writer(store.path) as writer:
        writer.flush()
        writer.scalars(1, {'loss': 1.0})
        writer.image(1, 'panel', picture)
        writer.flush()
        assert files.names(store.path) == ['metrics.jsonl']
    assert files.names(store.path) == ['images', 'metrics.jsonl', 'tensorboard']


def test_a_store_that_is_away_costs_one_warning_and_no_data(store, capsys):
    with Writer(store.path) as writer:
        store.fail(1)
        for step in (1, 2):
            writer.scalars(step, {'loss': 1.0})
            writer.flush()
        store.fail(0)
    said = capsys.readouterr().err
    assert said.count('not written') == 1
    assert f'{store.path}: not written (' in said
    steps = [json.loads(line)['step'] for line in files.read(f'{store.path}/metrics.jsonl').splitlines()]
    assert steps == [1, 2]


def test_a_log_that_cannot_be_read_at_the_start_is_an_error(store):
    files.write(f'{store.path}/metrics.jsonl', b'{"step": 1}\n')
    store.fail(1)
    with pytest.raises(Unavailable, match=r'metrics\.jsonl'):
        Writer(store.path, step=1)


def test_how_often_the_store_was_asked_again_is_logged(store):
    with Writer(store.path) as writer:
        store.fail(0.5)
        for number in range(20):
            files.write(f'{store.path}/{number}', b'')
        store.fail(0)
        writer.scalars(1, {})
    assert read_metrics(f'{store.path}/metrics.jsonl')[0]['store_retries'] > 0
