import io
import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from rvm_jax import config
from rvm_jax.data.loader import make_loader
from rvm_jax.data.mixture import Mixture, Part
from rvm_jax.data.sources.tfds import TfdsSource
from rvm_jax.errors import DataError, UserError

HEIGHT, WIDTH = 24, 40
NO_PICTURE = b'this cannot be decoded'


def draw(example):
    """Frames of an example, one more than of the one before it: each has a color of its own, and a ramp."""
    frames = np.zeros((4 + example, HEIGHT, WIDTH, 3), np.uint8)
    frames[..., 0] = 25 * np.arange(len(frames))[:, None, None]
    frames[..., 1] = 40 * example
    frames[..., 2] = 4 * np.arange(WIDTH)
    return frames


def encode(frames, form):
    """TFDS takes pictures from files as they are; encoding arrays would need TensorFlow."""
    blobs = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, form, quality=95)
        blobs.append(file.getvalue())
    return blobs


def write_dataset(data_dir, features, examples, **options):
    """Prepare a dataset of {split: [example, ...]} with a real builder, movies/1.0.0; its folder."""
    import tensorflow_datasets as tfds

    class Movies(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version('1.0.0')
        __module__ = '__main__'  # where any other is, TFDS looks it up with a package that it does not bring along

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, _):
            return {split: self._generate_examples(split) for split in examples}

        def _generate_examples(self, split):
            yield from enumerate(examples[split])

    builder = Movies(data_dir=data_dir, file_format='array_record')
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(**options))
    return builder.data_path


def image(form, channels=3):
    import tensorflow_datasets as tfds

    return tfds.features.Image(shape=(None, None, channels), encoding_format=form)


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    """Video of JPEG in two files, a mask video that cannot be decoded, and a label."""
    import tensorflow_datasets as tfds

    videos = {'video': image('jpeg'), 'mask': image('png', 1)}
    features = {name: tfds.features.Sequence(picture) for name, picture in videos.items()}
    features['label'] = np.int64

    def example(i):
        return {'video': encode(draw(i), 'jpeg'), 'mask': [NO_PICTURE], 'label': i}

    examples = {'train': [example(i) for i in range(5)], 'test': [example(2)] * 2, 'validation': [example(3)] * 2}
    folder = write_dataset(tmp_path_factory.mktemp('video'), features, examples, num_shards=2)
    call_them_videos(folder, videos)
    return folder


def call_them_videos(folder, videos):
    """Only TensorFlow can make a `Video`. Its records are those of a Sequence of Images, the description is another."""
    path = folder / 'features.json'
    content = json.loads(path.read_text())
    for name in videos:
        picture = content['featuresDict']['features'][name]['sequence']['feature']['image']
        picture['shape']['dimensions'].insert(0, '-1')
        kind = 'tensorflow_datasets.core.features.video_feature.Video'
        content['featuresDict']['features'][name] = {'pythonClassName': kind, 'video': picture}
    path.write_text(json.dumps(content))


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """Sequence of PNG; the second frame of every example cannot be decoded, and the third example has no frame."""
    import tensorflow_datasets as tfds

    def example(i):
        first, _, *rest = encode(draw(i), 'png')
        return {'pictures': [first, NO_PICTURE, *rest] if i != 2 else []}

    features = {'pictures': tfds.features.Sequence(image('png'))}
    return write_dataset(tmp_path_factory.mktemp('pictures'), features, {'train': [example(i) for i in range(4)]})


@pytest.fixture(scope='module', params=['Sequence', 'Dataset'])
def steps(request, tmp_path_factory):
    """Dictionaries in a Sequence, or in a Dataset as robots' episodes have them."""
    import tensorflow_datasets as tfds

    def example(i):
        frames = encode(draw(i), 'png')
        return {'steps': [{'observation': {'image': frame}, 'reward': 0.5} for frame in frames]}

    step = {'observation': {'image': image('png')}, 'reward': np.float32}
    features = {'steps': getattr(tfds.features, request.param)(step)}
    return write_dataset(tmp_path_factory.mktemp('steps'), features, {'train': [example(i) for i in range(3)]})


def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / 'copied')


def read(example, ticks, shrink=1):
    with example.open(1.0) as opened:
        return opened.pictures(ticks, 10).decode(shrink)


def num_frames(example):
    with example.open(1.0) as opened:
        return opened.count(10)


def which(source):
    """The numbers that draw() was called with, in the order of the source."""
    return [num_frames(source[i]) - 4 for i in range(len(source))]


def test_frames_of_a_video_come_back_in_the_order_asked_for(video):
    source = TfdsSource(video, 'train')
    assert source.feature == 'video' and len(source.names) == 2
    assert sorted(which(source)) == [0, 1, 2, 3, 4]
    for i, number in enumerate(which(source)):
        with source[i].open(1.0) as opened:
            found = opened.pictures([3, 0, 3], fps=10)
            assert (found.height, found.width) == (HEIGHT, WIDTH)
            np.testing.assert_allclose(np.stack(found.decode()), draw(number)[[3, 0, 3]], atol=4)


def test_jpeg_can_be_decoded_at_a_fraction_of_its_size(video):
    source = TfdsSource(video, 'train')
    frames = np.stack(read(source[0], [2], shrink=2))
    halves = draw(which(source)[0])[[2]].reshape(1, HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean((2, 4))
    np.testing.assert_allclose(frames, halves, atol=6)


def test_frames_in_steps_come_back_exactly(steps):
    source = TfdsSource(steps, 'train')
    assert source.feature == 'steps/observation/image'
    for i, number in enumerate(which(source)):
        np.testing.assert_array_equal(read(source[i], range(4 + number)), draw(number))


def test_only_the_frames_asked_for_are_decoded(pictures):
    source = TfdsSource(pictures, 'train')
    i = which_without_frames(source, wanted=3)
    np.testing.assert_array_equal(read(source[i], [0, 2, 6]), draw(3)[[0, 2, 6]])
    with pytest.raises(DataError, match=r'example .*is no picture'):
        read(source[i], [0, 1])


def which_without_frames(source, wanted):
    for i in range(len(source)):
        try:
            if num_frames(source[i]) - 4 == wanted:
                return i
        except DataError:
            if wanted is None:
                return i
    raise AssertionError('no such example')


def test_an_example_without_frames_is_named(pictures):
    source = TfdsSource(pictures, 'train')
    i = which_without_frames(source, wanted=None)
    with pytest.raises(DataError, match=r'movies-train.array_record-00000-of-00001 example \d: does not have a frame'):
        num_frames(source[i])


def test_validation_is_the_first_of_the_splits_that_could_be_it(video, pictures, tmp_path):
    assert which(TfdsSource(video, 'val')) == [3, 3]
    folder = copy(video, tmp_path)
    edit(folder / 'dataset_info.json', lambda info: info['splits'].pop(find(info, 'validation')))
    assert which(TfdsSource(folder, 'val')) == [2, 2]
    with pytest.raises(UserError, match=r'does not have a split for val .*its splits: train'):
        TfdsSource(pictures, 'val')


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def find(info, split):
    return [entry['name'] for entry in info['splits']].index(split)


def test_masks_are_left_out_unless_they_are_asked_for(video):
    assert TfdsSource(video, 'train').feature == 'video'
    source = TfdsSource(f'{video}#mask', 'train')
    assert (source.feature, num_frames(source[0])) == ('mask', 1)


def test_several_features_must_be_told_apart(tmp_path):
    import tensorflow_datasets as tfds

    features = {'left': tfds.features.Sequence(image('png')), 'right': tfds.features.Sequence({'eye': image('png')})}
    example = {'left': encode(draw(0), 'png'), 'right': {'eye': encode(draw(1), 'png')}}
    folder = write_dataset(tmp_path, features, {'train': [example]})
    with pytest.raises(UserError, match=r'several features .*left, right/eye.*choose one: .*/1.0.0#left'):
        TfdsSource(folder, 'train')
    with pytest.raises(UserError, match=r'does not have frames in middle .*left, right/eye'):
        TfdsSource(f'{folder}#middle', 'train')
    assert which(TfdsSource(f'{folder}#left', 'train')) == [0]
    assert which(TfdsSource(f'{folder}#right/eye', 'train')) == [1]
    prints = [TfdsSource(f'{folder}#{name}', 'train').fingerprint() for name in ('left', 'right/eye')]
    assert prints[0] != prints[1]


def test_a_dataset_without_frames_is_refused(pictures, tmp_path):
    single = write_dataset(tmp_path, {'one': image('png')}, {'train': [{'one': encode(draw(0)[:1], 'png')[0]}]})
    nested = copy(pictures, tmp_path)
    edit(nested / 'features.json', lambda content: nest(content['featuresDict']['features']['pictures']['sequence']))
    for folder in (single, nested):
        with pytest.raises(UserError, match='does not have a feature that holds frames'):
            TfdsSource(folder, 'train')


def nest(sequence):
    """Make a list of pictures a list of lists."""
    sequence['feature'] = {'sequence': {'feature': sequence['feature']}}


def test_a_name_is_looked_for_where_tfds_keeps_its_datasets(video, tmp_path, monkeypatch):
    from tensorflow_datasets.core import constants

    monkeypatch.setattr(constants, 'DATA_DIR', str(tmp_path))
    for place in (
        'plain/1.2.0',
        'plain/1.10.0',
        'plain/1.9.0',
        'small/only/1.0.0',
        'both/low/1.0.0',
        'both/high/1.0.0',
    ):
        shutil.copytree(video, tmp_path / place)
    (tmp_path / 'plain' / '2.0.0.incomplete').mkdir()
    found = {
        'plain': 'plain/1.10.0',
        'plain:1.2.0': 'plain/1.2.0',
        'small': 'small/only/1.0.0',
        'both/high': 'both/high/1.0.0',
        'both/low:1.0.0#video': 'both/low/1.0.0',
    }
    assert {name: os.path.relpath(TfdsSource(name, 'train').root, tmp_path) for name in found} == found
    for name, reason in {
        'both': 'several configs .high, low.; add one: both/high',
        'plain:3.0.0': 'is not prepared in .*file_format=.array_record',
        'missing': 'is not prepared in .*TFDS_DATA_DIR',
        'no/such/folder': 'is not a TFDS name',
    }.items():
        with pytest.raises(UserError, match=reason):
            TfdsSource(name, 'train')


def test_another_file_format_is_refused_with_the_fix(video, tmp_path):
    folder = copy(video, tmp_path)
    edit(folder / 'dataset_info.json', lambda info: info.update(fileFormat='tfrecord'))
    with pytest.raises(UserError, match=r"stored as tfrecord.*download_and_prepare\(file_format='array_record'\)"):
        TfdsSource(folder, 'train')
    edit(folder / 'dataset_info.json', lambda info: info.update(alternativeFileFormats=['array_record']))
    assert len(TfdsSource(folder, 'train')) == 5


@pytest.mark.parametrize(
    'damage, reason', [('cut', 'is damaged: it opens with 0 of'), ('gone', r'cannot be read .No such file')]
)
def test_a_file_that_is_not_whole_is_named_at_once(video, tmp_path, damage, reason):
    folder = copy(video, tmp_path)
    path = folder / TfdsSource(folder, 'train').names[1]
    if damage == 'cut':
        os.truncate(path, path.stat().st_size - 1)
    else:
        path.unlink()
    with pytest.raises(DataError, match=f'{path.name}: {reason}'):
        TfdsSource(folder, 'train')


def test_a_flipped_byte_costs_the_example_and_no_other(video, tmp_path):
    folder = copy(video, tmp_path)
    path = folder / TfdsSource(folder, 'train').names[0]
    content = bytearray(path.read_bytes())
    content[200] ^= 1  # the first record begins at byte 64
    path.write_bytes(content)
    damaged = TfdsSource(folder, 'train')
    with pytest.raises(DataError, match=r'example 0: is damaged \(Corrupted'):
        num_frames(damaged[0])
    assert [num_frames(damaged[i]) - 4 for i in range(1, 5)] == which(TfdsSource(video, 'train'))[1:]


def test_fingerprint_follows_content_and_not_place(video, tmp_path):
    source = TfdsSource(video, 'train')
    identity, *files = source.manifest()
    assert identity == ['movies/1.0.0 train#video', 5, 0]
    assert [name for name, _, _ in files] == [f'movies-train.array_record-0000{i}-of-00002' for i in (0, 1)]
    folder = copy(video, tmp_path)
    assert TfdsSource(folder, 'train').fingerprint() == source.fingerprint()
    assert TfdsSource(folder, 'val').fingerprint() != source.fingerprint()
    edit(folder / 'dataset_info.json', lambda info: info.update(version='1.0.1'))
    assert TfdsSource(folder, 'train').fingerprint() != source.fingerprint()


def test_another_process_reads_it_without_tensorflow(video):
    source = TfdsSource(video, 'train')
    with source[0].open(1.0) as opened:
        opened.count(10)
    program = (
        'import pickle, sys\n'
        'source = pickle.load(sys.stdin.buffer)\n'
        'with source[0].open(1.0) as opened:\n'
        '    print(opened.count(10) - 4, len(opened.pictures([1, 2], 10).decode()))\n'
        "print(len(type(source)(source.path, 'val')))\n"
        "print('tensorflow' in sys.modules, 'jax' in sys.modules)\n"
    )
    command = [sys.executable, '-c', program]
    answer = subprocess.run(command, input=pickle.dumps(source), capture_output=True, check=True)
    assert answer.stdout.decode().splitlines() == [f'{which(source)[0]} 2', '2', 'False False']


def test_the_loader_makes_clips_of_it(video):
    data = config.default().data
    data.image_size, data.num_source, data.num_target, data.min_gap, data.max_gap = 16, 2, 1, 1, 2
    data.num_workers = 0
    with make_loader(Mixture([Part(TfdsSource(video, 'train'), fps=10)]), data, seed=1, batch_size=8) as loader:
        batch = next(loader)
    assert batch['source_BTHWC'].shape == (8, 2, 16, 16, 3) and not batch['failures']
    steps = np.diff(batch['source_BTHWC'][..., 0].mean((2, 3), dtype=float), axis=1)
    np.testing.assert_allclose(steps, 25, atol=3)  # a frame is 25 brighter in red than the one before it
