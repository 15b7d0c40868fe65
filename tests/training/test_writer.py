import json
import os
import struct
import sys

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from rvm_jax.training.writer import Writer


def logged(workdir):
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def events(workdir):
    from tensorboardX.proto import event_pb2

    for name in sorted(os.listdir(workdir / 'tensorboard')):
        data = (workdir / 'tensorboard' / name).read_bytes()
        while data:
            size = struct.unpack('<Q', data[:8])[0]
            yield event_pb2.Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]


def picture():
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def test_each_logged_step_is_one_object_with_plain_numbers(tmp_path):
    with Writer(tmp_path) as writer:
        writer.scalars(10, {'loss': jnp.float32(0.1), 'mfu': None, 'skipped_videos': np.int64(3)})
        writer.scalars(20, {'loss': float('nan'), 'grad_norm': np.float64('inf')})
    assert logged(tmp_path) == [
        {'step': 10, 'loss': float(np.float32(0.1)), 'mfu': None, 'skipped_videos': 3},
        {'step': 20, 'loss': None, 'grad_norm': None},
    ]


def test_a_resumed_run_has_each_step_once(tmp_path):
    with Writer(tmp_path) as writer:
        for step in (10, 20, 30):
            writer.scalars(step, {'loss': 1 / step})
    with open(tmp_path / 'metrics.jsonl', 'a') as file:
        file.write('{"step": 40, "lo')  # killed in the middle of a line
    with Writer(tmp_path, step=20) as writer:
        for step in (30, 40):
            writer.scalars(step, {'loss': 2 / step})
    assert logged(tmp_path) == [
        {'step': step, 'loss': value} for step, value in ((10, 0.1), (20, 0.05), (30, 2 / 30), (40, 0.05))
    ]


def test_skipped_steps_are_listed_once_in_a_resumed_run(tmp_path):
    with Writer(tmp_path) as writer:
        writer.skipped(3, ['a.mp4', 'b.mp4'], 2)
        writer.skipped(7, ['c.mp4'], 1)
    with Writer(tmp_path, step=5) as writer:
        writer.skipped(7, ['c.mp4'], 1)
    entries = [json.loads(line) for line in (tmp_path / 'nonfinite.jsonl').read_text().splitlines()]
    assert [(entry['step'], entry['videos'], entry['number']) for entry in entries] == [
        (3, ['a.mp4', 'b.mp4'], 2), (7, ['c.mp4'], 1)
    ]  # fmt: skip


def test_a_half_written_line_is_dropped_on_a_fresh_start_too(tmp_path):
    (tmp_path / 'metrics.jsonl').write_text('{"step": 5, "loss": 1.0}\n7\n{"st')
    with Writer(tmp_path) as writer:
        writer.scalars(1, {'loss': 2.0})
    assert logged(tmp_path) == [{'step': 1, 'loss': 2.0}]


def test_a_log_that_was_deleted_is_made_again(tmp_path):
    with Writer(tmp_path) as writer:
        writer.scalars(1, {'loss': 1.0})
        os.rename(tmp_path / 'metrics.jsonl', tmp_path / 'metrics.jsonl.old')
        writer.scalars(2, {'loss': 2.0})
    assert logged(tmp_path) == [{'step': 2, 'loss': 2.0}]


def test_a_full_disk_costs_one_warning(tmp_path, capsys):
    with Writer(tmp_path) as writer:
        os.symlink('/dev/full', tmp_path / 'metrics.jsonl')
        os.symlink('/dev/full', tmp_path / 'images')
        for step in (1, 2):
            writer.scalars(step, {'loss': 1.0})
            writer.image(step, 'panel', picture)
        os.unlink(tmp_path / 'metrics.jsonl')
        writer.scalars(3, {'loss': 1.0})
    said = capsys.readouterr().err
    assert said.count('metrics.jsonl: not written (No space left on device)') == 1
    assert said.count('images: not written') == 1
    assert logged(tmp_path) == [{'step': 3, 'loss': 1.0}]


def test_pictures_are_png_files_and_in_tensorboard(tmp_path):
    with Writer(tmp_path) as writer:
        writer.image(7, 'panel', picture)
    read = cv2.imread(tmp_path / 'images' / 'panel_00000007.png')[..., ::-1]
    np.testing.assert_array_equal(read, picture())
    [value] = [v for event in events(tmp_path) for v in event.summary.value]
    assert (value.tag, value.image.height, value.image.width, value.image.colorspace) == ('panel', 6, 9, 3)
    png = np.frombuffer(value.image.encoded_image_string, np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(png, cv2.IMREAD_COLOR)[..., ::-1], picture())
    assert os.listdir(tmp_path / 'images') == ['panel_00000007.png']


def test_tensorboard_has_the_numbers_once_after_a_resume(tmp_path):
    for start in (0, 10):
        with Writer(tmp_path, step=start) as writer:
            writer.scalars(start + 10, {'loss': 0.5, 'mfu': None})
    found = [(e.step, v.tag, v.simple_value) for e in events(tmp_path) for v in e.summary.value]
    assert found == [(10, 'loss', 0.5), (20, 'loss', 0.5)]
    assert [e.step for e in events(tmp_path) if e.HasField('session_log')] == [1, 11]


def test_training_continues_without_tensorboard(tmp_path, capsys):
    (tmp_path / 'tensorboard').write_text('in the way')
    with Writer(tmp_path) as writer:
        writer.scalars(1, {'loss': 1.0})
        writer.image(1, 'panel', picture)
    assert logged(tmp_path) == [{'step': 1, 'loss': 1.0}]
    assert capsys.readouterr().err.count('tensorboard: not written') == 1


@pytest.mark.parametrize('held_out', [False, True])
def test_the_loss_curve_is_drawn_from_what_was_logged(tmp_path, held_out):
    with Writer(tmp_path) as writer:
        writer.loss_curve()
        assert not (tmp_path / 'images').exists()
        for step in range(1, 40):
            extra = {'eval_loss': 1.5 / step, 'eval_copy_last': 0.9, 'eval_mean_color': 0.7} if held_out else {}
            writer.scalars(step, {'loss': 1 / step if step != 3 else float('nan'), **extra})
        writer.loss_curve()
    assert cv2.imread(tmp_path / 'images' / 'loss.png').std() > 5


def test_whatever_fails_while_drawing_costs_one_warning(tmp_path, capsys):
    def broken():
        raise ValueError('no font\nin this place')

    with Writer(tmp_path) as writer:
        for step in (1, 2):
            writer.image(step, 'panel', broken)
            writer.scalars(step, {'loss': 1.0})
        writer.image(3, 'panel', picture)
    assert capsys.readouterr().err == 'images: not written (no font); training continues, this is printed once\n'
    assert [entry['step'] for entry in logged(tmp_path)] == [1, 2]
    assert os.listdir(tmp_path / 'images') == ['panel_00000003.png']


def test_numbers_stay_where_tensorboard_cannot_be_imported(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorboardX.event_file_writer', None)
    with Writer(tmp_path) as writer:
        writer.scalars(1, {'loss': 1.0})
    assert logged(tmp_path) == [{'step': 1, 'loss': 1.0}]
    assert capsys.readouterr().err.startswith('tensorboard: not written (import of')
