import contextlib
import dataclasses

import numpy as np
import pytest

from rvm_jax import config
from rvm_jax.data import open_data
from rvm_jax.data.loader import make_loader
from rvm_jax.data.open_data import open_held_out, open_source, open_training
from rvm_jax.data.video.lazy_frames import decoded
from rvm_jax.errors import UserError


@pytest.fixture
def folders(tmp_path):
    for name, count in (('a', 3), ('b', 2)):
        (tmp_path / name).mkdir()
        for i in range(count):
            (tmp_path / name / f'{i}.mp4').write_bytes(name.encode() * (i + 1))
    return str(tmp_path / 'a'), str(tmp_path / 'b')


def data(**values):
    c = config.default().data
    c.update(values)
    return c


def test_a_mixture_has_the_records_and_rates_of_its_parts(folders):
    mixture = open_training(data(mixture=((folders[0], 25, 0.7), (folders[1], 10, 0.3))))
    assert len(mixture) == 5 and [mixture.fps(record) for record in range(5)] == [25, 25, 25, 10, 10]
    assert mixture[4].name == f'{folders[1]}/1.mp4'


def test_a_changed_weight_rate_or_file_changes_the_data(folders):
    parts = ((folders[0], 25, 0.7), (folders[1], 10, 0.3))
    before = open_training(data(mixture=parts))
    again = open_training(data(mixture=parts))
    assert (again.manifest(), again.fingerprint()) == (before.manifest(), before.fingerprint())
    changed = [
        ((folders[0], 25, 0.6), (folders[1], 10, 0.4)),
        ((folders[0], 20, 0.7), (folders[1], 10, 0.3)),
        ((folders[1], 25, 0.7), (folders[0], 10, 0.3)),
    ]
    for others in changed:
        other = open_training(data(mixture=others))
        assert other.manifest() != before.manifest() and other.fingerprint() != before.fingerprint()
    with open(f'{folders[1]}/0.mp4', 'ab') as file:
        file.write(b'more')
    assert open_training(data(mixture=parts)).fingerprint() != before.fingerprint()


def test_one_path_is_a_mixture_of_one_part(folders):
    mixture = open_training(data(path=folders[0], fps=5.0))
    assert len(mixture) == 3 and mixture.fps(0) == 5
    assert open_held_out(data()) is None
    assert len(open_held_out(data(eval_path=folders[1]))) == 2


@pytest.mark.parametrize(
    ('path', 'message'),
    [
        ('gs://bucket/videos', r'is in a bucket, and data are read from files; mount it'),
        ('nowhere', r'nowhere: does not exist; give a folder of videos, .* or the name of a TFDS dataset'),
        ('', 'is not set'),
    ],
)
def test_what_cannot_be_opened_is_said_with_what_can(path, message):
    with pytest.raises(UserError, match=message):
        open_source(path, 'train')


def test_a_manifest_of_somebody_else_does_not_make_videos_shards(folders):
    with open(f'{folders[0]}/manifest.json', 'w') as file:
        file.write('{}')
    assert len(open_source(folders[0], 'train')) == 3


@dataclasses.dataclass
class GraySource:
    """Videos of 30 frames, each as gray as its number: all that a new source needs."""

    path: str
    split: str
    fps = None

    @staticmethod
    def knows(path):
        return path.startswith('gray:')

    def __len__(self):
        return int(self.path.removeprefix('gray:'))

    def __getitem__(self, index):
        return GrayVideo(f'{self.path}#{index}')

    def manifest(self):
        return [[self.path, len(self), 0]]

    def fingerprint(self):
        return self.path


@dataclasses.dataclass
class GrayVideo:
    name: str

    def open(self, timeout_s):
        return contextlib.nullcontext(self)

    def count(self, fps):
        return 30

    def pictures(self, ticks, fps):
        return decoded(np.tile(np.array(ticks, np.uint8)[:, None, None, None], (1, 40, 48, 3)))


def test_a_source_is_added_by_one_line(monkeypatch):
    monkeypatch.setattr(open_data, 'SOURCES', (GraySource, *open_data.SOURCES))
    chosen = data(path='gray:7', image_size=32, num_source=2, num_target=3, max_gap=12, num_workers=0)
    with make_loader(open_training(chosen), chosen, seed=1, batch_size=4) as loader:
        batch = next(loader)
    assert sorted(set(batch['record_B'])) == sorted(batch['record_B']) and max(batch['record_B']) < 7
    source_BT, target_BF = (batch[name].mean((2, 3, 4)) for name in ('source_BTHWC', 'target_BFHWC'))
    np.testing.assert_array_equal(source_BT[:, 1], source_BT[:, 0] + 1)
    np.testing.assert_array_equal(target_BF, source_BT[:, :1] + batch['deltas_BF'])
