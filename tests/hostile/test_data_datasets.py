"""The readers of public datasets on damaged or lying stand-ins: those that the datasets' own tests write."""

import importlib.util
import inspect
import io
import json
import os
import pathlib
import random
import shutil
import struct
import zlib

import cv2
import numpy as np
import pytest

TESTS = pathlib.Path(__file__).parents[1] / 'probing' / 'datasets'
VIDEO, PICTURE = {'num_frames': 4, 'image_size': 32}, {'image_size': 28, 'resize_to': 32}
# Name, and that of its module: class, how it is opened, and the test module and fixture that write a stand-in.
DATASETS = {
    'davis': ('Davis', {}, 'labelled_frames', 'davis'),
    'vip': ('Vip', {}, 'labelled_frames', 'vip'),
    'jhmdb': ('Jhmdb', {}, 'labelled_frames', 'jhmdb'),
    'imagenet': ('ImageNet', PICTURE, 'imagenet', 'root'),
    'inaturalist': ('INaturalist', PICTURE, 'inaturalist', 'root'),
    'places365': ('Places365', PICTURE, 'places365', 'root'),
    'kinetics': ('Kinetics', VIDEO, 'kinetics', 'root'),
    'ssv2': ('SSv2', VIDEO, 'ssv2', 'root'),
    'perception_test': ('PerceptionTest', VIDEO, 'perception_test', 'root'),
    'realestate10k': ('RealEstate10K', VIDEO, 'realestate10k', 'root'),
    'scannet': ('ScanNet', VIDEO, 'scannet', 'root'),
    'nuscenes': ('NuScenes', VIDEO, 'nuscenes', 'root'),
    'waymo': ('Waymo', VIDEO, 'waymo', 'root'),
    'movi_e': ('MoviE', {**VIDEO, 'num_tracks': 8}, 'movi_e', 'root'),
}


def read(path):
    """Every example of the dataset in a folder, whose name begins with that of the dataset."""
    import warnings

    from rvm_jax.errors import DataError

    name = os.path.basename(path).split('-')[0]
    kind, how, *_ = DATASETS[name]
    module = importlib.import_module(f'rvm_jax.probing.datasets.{name}')
    warnings.simplefilter('ignore', RuntimeWarning)
    source, refused = getattr(module, kind)(path, 'val', **how), []
    for index in range(min(len(source), 3)):
        try:
            if hasattr(source, 'video'):
                video = source.video(index)
                for t, _ in enumerate(video.frames()):
                    video.truth(t)
            else:
                source.example(index)
                source.example(index, np.random.default_rng(0))
        except DataError as error:
            refused.append(error)
    for error in refused:
        raise error


def load(name):
    [path] = TESTS.rglob(f'{name}.py')
    spec = importlib.util.spec_from_file_location(f'stand_in_{name}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(module, fixture, given):
    """What a fixture of another test module gives, from the functions that it asks for by name."""
    function = inspect.unwrap(getattr(module, fixture))
    needed = inspect.signature(function).parameters
    return function(**{name: given[name] if name in given else build(module, name, given) for name in needed})


@pytest.fixture(scope='module')
def valid(tmp_path_factory):
    """{name: folder} of a stand-in of each dataset."""
    helpers, folders = load('conftest'), {}
    functions = {name: getattr(helpers, name) for name in ('draw_marker', 'write_clip', 'write_image', 'encode_image')}
    for name, (*_, module, fixture) in DATASETS.items():
        folder, module = tmp_path_factory.mktemp(name), load(f'test_{module}')
        (folder / 'new').mkdir()
        root = build(module, fixture, {**functions, 'tmp_path': folder / 'new'})
        if name == 'imagenet':
            module.write_devkit(root, [2, 1, 3, 1])
        for path in root.rglob('movi_e-train.*'):
            path.rename(path.with_name(path.name.replace('train', 'validation')))
        folders[name] = pathlib.Path(shutil.move(root, folder / f'{name}-root'))
    return folders


def write_mutants(guard, top, valid, count):
    """Copies of each stand-in, one file of which is damaged."""
    for name, folder in valid.items():
        files = sorted(path.relative_to(folder) for path in folder.rglob('*') if path.is_file())
        # Tables are few and pictures many: half of the damage is for tables.
        tables = [
            path for path in files if path.suffix.lower() not in ('.jpg', '.jpeg', '.png', '.mp4', '.webm')
        ] or files
        for i in range(count):
            rng = random.Random(f'{name} {i}')
            path = rng.choice(tables if rng.random() < 0.6 else files)
            [(_, damaged)] = guard.mutants((folder / path).read_bytes(), 1, seed=f'{name} {i}')
            shutil.copytree(folder, top / f'{name}-{i:04}')
            (top / f'{name}-{i:04}' / path).write_bytes(damaged)
    return sorted(top.iterdir())


@pytest.mark.parametrize('count', [3, pytest.param(150, marks=pytest.mark.slow)])
def test_damaged_datasets_are_used_or_refused(guard, guarded, tmp_path, valid, count):
    (tmp_path / 'mutants').mkdir()
    files = write_mutants(guard, tmp_path / 'mutants', valid, count)
    kinds = [outcome.kind for outcome in guarded(read, files, first=valid.values())]
    assert kinds.count('used') > count and kinds.count('refused') > count


TIMES = range(33_000, 330_000, 33_000)  # of the frames of the stand-in
OUT = ['../../../../etc/passwd', '/etc/passwd', 'a/../../b', 'a\0b', '..']


def name_others(valid, name, place):
    """{number: text of a table} whose entries name files outside of the dataset."""
    table = json.loads((valid / place).read_text())
    for number, out in enumerate(OUT):
        yield number, json.dumps(name(json.loads(json.dumps(table)), out))


def inaturalist(table, out):
    table['images'][0]['file_name'] = out
    return table


def ssv2(table, out):
    table[0]['id'] = out
    return table


def perception_test(table, out):
    table[out] = table.pop('video_7')
    return table


def nuscenes(table, out):
    return [{**entry, 'filename': out} for entry in table]


TABLES = {
    'inaturalist': ('val2018.json', inaturalist),
    'ssv2': ('validation.json', ssv2),
    'perception_test': ('point_tracking_valid.json', perception_test),
    'nuscenes': ('v1.0-mini/sample_data.json', nuscenes),
}
LISTS = {
    'davis': ('ImageSets/2017/val.txt', '{}\n'),
    'vip': ('lists/val_videos.txt', '{}\n'),
    'jhmdb': ('splits/clap_test_split1.txt', '{} 2\n'),
    'places365': ('places365_val.txt', '{} 1\n'),
    'scannet': ('scannetv2_val.txt', '{}\n'),
}


def test_tables_name_no_file_outside_of_their_dataset(guarded, tmp_path, valid):
    top = tmp_path / 'out'
    cases = [(name, place, name_others(valid[name], change, place)) for name, (place, change) in TABLES.items()]
    cases += [(name, place, enumerate(map(line.format, OUT))) for name, (place, line) in LISTS.items()]
    for name, place, texts in cases:
        for number, text in texts:
            folder = shutil.copytree(valid[name], top / f'{name}-{number}')
            (folder / place).write_text(text)
    outcomes = guarded(read, sorted(top.iterdir()), first=valid.values())
    assert {outcome.kind for outcome in outcomes} == {'refused'}
    wrong = [outcome.text for outcome in outcomes if not any(
        reason in outcome.text for reason in ('not a file of the dataset', 'is not a text file', 'is not there')
    )]  # fmt: skip
    assert wrong == []


def matlab(content):
    """A MATLAB file of one compressed variable."""
    packed = zlib.compress(content, 1)
    header = b'MATLAB 5.0'.ljust(124) + struct.pack('<H2s', 0x0100, b'IM')
    return header + struct.pack('<II', 15, len(packed)) + packed


def huge_png():
    data = bytearray(cv2.imencode('.png', np.zeros((8, 8), np.uint8))[1].tobytes())
    data[16:24] = struct.pack('>II', 60_000, 60_000)
    data[29:33] = struct.pack('>I', zlib.crc32(data[12:29]))
    return bytes(data)


def gif():
    import PIL.Image

    PIL.Image.new('P', (60_000, 1)).save(data := io.BytesIO(), 'gif')
    return data.getvalue()[:8] + struct.pack('<H', 60_000) + data.getvalue()[10:]


def test_files_that_lie_do_not_fill_the_memory(guarded, tmp_path, valid):
    joints, masks = 'joint_positions/clap/Two_clap/joint_positions.mat', 'Annotations/480p/goat/00000.png'
    deep = b'[' * 100_000
    double = struct.pack('<IIII', 14, 2**31, 6, 8) + bytes(8)
    lies = [
        ('jhmdb', joints, matlab(bytes(100 * 2**20))),
        ('jhmdb', joints, matlab(double + bytes(100 * 2**20))),
        ('jhmdb', joints, matlab(b'')[:-4]),
        ('davis', masks, huge_png()),
        ('davis', masks, gif()),
        ('scannet', 'scans/scene0000_00/depth/0.png', huge_png()),
        ('inaturalist', 'val2018.json', deep),
        ('nuscenes', 'v1.0-mini/sample_data.json', deep),
        ('ssv2', 'labels.json', b'{"a":' * 100_000),
        ('ssv2', 'labels.json', b'{"Pushing something left": Infinity, "Pushing something right": 0}'),
        ('kinetics', 'validate.csv', b'label,youtube_id,time_start,time_end,split\na,b,inf,1e999,val\n'),
        ('kinetics', 'validate.csv', b'label,youtube_id,time_start,time_end,split\n' + b'a' * 200_000),
        ('kinetics', 'validate.csv', b'\xff\xfe\0'),
        ('places365', 'places365_val.txt', '3.jpg \u00b2\n'.encode()),
        ('davis', 'ImageSets/2017/val.txt', b'a' * 3_000_000),
        ('realestate10k', 'test/clip_a.txt', b'x\n' + b'\n'.join(b'%d' % time + b' nan' * 18 for time in TIMES)),
        ('realestate10k', 'test/clip_a.txt', b'x\n' + b'\n'.join(b'%d' % time + b' 0' * 18 for time in TIMES)),
        ('waymo', 'validation/segment-1_with_camera_labels.tfrecord', b'\xff' * 100),
    ]  # fmt: skip
    top = tmp_path / 'lies'
    for number, (name, place, data) in enumerate(lies):
        folder = shutil.copytree(valid[name], top / f'{name}-{number}')
        (folder / place).write_bytes(data)
    folder = shutil.copytree(valid['movi_e'], top / 'movi_e-many')
    for path in [path for path in folder.rglob('*tfrecord*') if path.is_file()]:
        path.rename(path.with_name('movi_e-validation.tfrecord-00000-of-99999999999'))
    for name, target in {'endless': '/dev/zero', 'pipe': 'pipe'}.items():
        folder = shutil.copytree(valid['inaturalist'], top / f'inaturalist-{name}')
        os.unlink(folder / 'val2018.json')
        os.mkfifo(folder / 'pipe')
        (folder / 'val2018.json').symlink_to(target)
    outcomes = guarded(read_or_system, sorted(top.iterdir()), first=valid.values(), memory=200 * 2**20)
    assert {outcome.kind for outcome in outcomes} == {'refused'}


def read_or_system(path):
    """`read`, where an error of the system with a path is one line too, as cli.py makes it."""
    from rvm_jax.errors import UserError

    try:
        read(path)
    except OSError as error:
        raise UserError(error.filename, error.strerror, 'check it') from error
