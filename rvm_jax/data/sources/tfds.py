"""Prepared TFDS datasets as a source: videos that are stored as one JPEG or PNG file a frame.

TFDS keeps an example in one record of an ArrayRecord file, and the frames of a `Video`, or of an `Image` in a
`Sequence` or `Dataset`, in it as a list of encoded files. They are taken out of the record as they are and only the
frames of a clip are decoded; labels and other features are not looked at. The record itself is read whole.

`tfds.data_source` would decode all frames of an example: its `SkipDecoding` does not work inside sequences, and without
TensorFlow it cannot even describe a `Video` (tensorflow-datasets 4.9.10). So features.json and dataset_info.json are
read here, and neither this nor the workers need TensorFlow. Writing with TFDS may need it.

TFDS does not store a frame rate: frames count as having the rate that the config asks for, so tick k is frame k.
"""

import bisect
import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rvm_jax.data.dataset_manifest import file_entries, fingerprint
from rvm_jax.data.shard_format import MOST_CHARACTERS, ShardReader, check_readable, reading_fault
from rvm_jax.data.video.lazy_frames import LazyFrames, encoded
from rvm_jax.errors import DataError, UserError
from rvm_jax.storage import files

INFO, FEATURES = 'dataset_info.json', 'features.json'
VERSION = r'\d+\.\d+\.\d+'
NAME = rf'(?P<name>\w+)(/(?P<config>[^/:]+))?(:(?P<version>{VERSION}))?'
TEMPLATE = r'([\w.-]|\{[A-Z_]+\}){1,200}'
SPLITS = {'train': ('train',), 'val': ('validation', 'val', 'test')}
FORMAT = 'array_record'
PREPARE = f"prepare it with tfds.builder(...).download_and_prepare(file_format='{FORMAT}')"
FORMS = 'give a TFDS name (my_videos, my_videos/config:1.0.0), or the folder of one version'
FIX = 'copy the dataset again, or prepare it again'


class TfdsSource:
    """source[i] is example i (TfdsExample) of a split, len(source) their number, in the order of TFDS.

    path is a TFDS name, looked for in TFDS_DATA_DIR or ~/tensorflow_datasets (without a version: the highest one), or
    the folder of one version. split 'val' is the first of validation, val and test that the dataset has.
    The feature with the frames is found by itself; where several could be meant, '#name' or '#outer/name' at the end of
    path says which one. Where some are in color, gray ones are taken for masks and left out.
    UserError if the dataset, the split or the feature is missing or not clear, or the files allow no random access.
    DataError if a file does not hold the examples that dataset_info.json promises: one that was cut off opens as empty.
    """

    fps = None  # not known

    @staticmethod
    def knows(path: str) -> bool:
        """Whether a path is the folder of one version of a dataset, or the name of one that is prepared here."""
        folder = os.path.expanduser(split_path(path)[0])
        return os.path.isfile(os.path.join(folder, FEATURES)) if os.path.lexists(folder) else is_prepared(path)

    def __init__(self, path: str | os.PathLike, split: str):
        self.path = os.fspath(path)
        place, chosen = split_path(self.path)
        self.root = _dataset_folder(place)
        info, features = _read_json(self.root, INFO), _read_json(self.root, FEATURES)
        with _understanding(self.root, INFO):
            split_info = _choose_split(self.path, info, split)
            self.names, counts = _shards(self.path, self.root, info, split_info)
            dataset = '/'.join(info[key] for key in ('name', 'configName', 'version') if info.get(key))
        with _understanding(self.root, FEATURES):
            self.feature = _choose_feature(place, features, chosen)
        self._identity = [f'{dataset} {split_info["name"]}#{self.feature}', sum(counts), 0]
        self._ends = list(itertools.accumulate(counts))
        self._manifest: list[list] | None = None
        _check_counts(self.root, self.names, counts)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> 'TfdsExample':
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = bisect.bisect_right(self._ends, index)
        position = index - (self._ends[shard - 1] if shard else 0)
        return TfdsExample(os.path.join(self.root, self.names[shard]), position, self.feature)

    def manifest(self) -> list[list]:
        """[[name, bytes, crc32], ...] of the split's files, led by [dataset, split and feature; examples; 0]."""
        if self._manifest is None:
            self._manifest = [self._identity, *file_entries(self.root, self.names)]
        return self._manifest

    def fingerprint(self) -> str:
        """Hex digest of the manifest and of the rule by which clips are drawn; moving the folder does not change it."""
        return fingerprint(self.manifest())


@dataclasses.dataclass(frozen=True)
class TfdsExample:
    """One example: the file it is in, its number there, and the feature with its frames."""

    path: str
    position: int
    feature: str

    @property
    def name(self) -> str:
        """File and number, for a person."""
        return f'{self.path} example {self.position}'

    @contextlib.contextmanager
    def open(self, timeout_s: float) -> Iterator['TfdsFrames']:
        """Frames of the example, for a `with` block. Nothing here can take long, so timeout_s is not looked at.

        DataError if the record cannot be read or holds no frame.
        """
        yield TfdsFrames(self.name, _read_frames(self))


class TfdsFrames:
    """The encoded frames of one example."""

    def __init__(self, name: str, blobs: Sequence[bytes]):
        self.name, self._blobs = name, blobs

    def count(self, fps: float) -> int:
        """Their number, whatever fps is."""
        return len(self._blobs)

    def pictures(self, ticks: Sequence[int], fps: float) -> LazyFrames:
        """LazyFrames of the frames with these numbers, whatever fps is; see `pictures.encoded`."""
        return encoded(self.name, [self._blobs[tick] for tick in ticks])


def _read_frames(example):
    """List of encoded frames, taken out of the record one by one when they are asked for."""
    from array_record.python.array_record_module import ArrayRecordReader
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    check_readable(example.path)
    try:  # a reader for each record: opening takes a fifth of a millisecond, and no shard keeps a file open
        reader = ArrayRecordReader(example.path, options='readahead_buffer_size:0')
        record = reader.read([example.position])[0]
        features = tf_example_pb2.Example.FromString(record).features.feature
    except DecodeError as error:
        raise DataError(example.name, f'is damaged ({error})', FIX) from error
    except (RuntimeError, ValueError, IndexError) as error:
        raise reading_fault(example.name, str(error)) from error
    blobs = features[example.feature].bytes_list.value if example.feature in features else []
    if not blobs:
        raise DataError(
            example.name, f'does not have a frame (in {example.feature})', 'leave it out when preparing the dataset'
        )
    return blobs


def split_path(path: str) -> tuple[str, str | None]:
    """(folder or name, the feature after '#' or None) of a path."""
    if '#' not in path or os.path.isdir(os.path.expanduser(path)):
        return path, None
    place, _, feature = path.rpartition('#')
    return place, feature


def _dataset_folder(place):
    """The folder of one version of a dataset."""
    folder = os.path.expanduser(place)
    if all(os.path.isfile(os.path.join(folder, name)) for name in (INFO, FEATURES)):
        return folder
    name = re.fullmatch(NAME, place)
    if not name:
        raise UserError(place, f'is not a TFDS name, and not a folder with {INFO} and {FEATURES}', FORMS)
    found, data_dirs = _prepared(name)
    if not found:
        raise UserError(place, f'is not prepared in {" or ".join(data_dirs)}', f'{PREPARE}, or set TFDS_DATA_DIR')
    configs = sorted({config for config, _, _ in found})
    if len(configs) > 1:
        raise UserError(place, f'has several configs ({", ".join(configs)})', f'add one: {name["name"]}/{configs[0]}')
    return max(found)[2]


def is_prepared(path: str) -> bool:
    """Whether a path is the name of a TFDS dataset that is prepared here."""
    name = re.fullmatch(NAME, split_path(path)[0])
    return name is not None and any(_prepared(name)[0])


def _prepared(name):
    """([(config, version as numbers, folder), ...] that fit a match of NAME, the folders where TFDS looks)."""
    from tensorflow_datasets.core.utils.file_utils import list_data_dirs

    data_dirs = [os.fspath(data_dir) for data_dir in list_data_dirs()]
    return [version for data_dir in data_dirs for version in _versions(data_dir, **name.groupdict())], data_dirs


def _versions(data_dir, name, config, version):
    """[(config, version as numbers, folder), ...] of all that is prepared and fits; the config may be ''."""
    found = []
    for pattern in (f'*/{FEATURES}', f'*/*/{FEATURES}'):
        for folder in (file.parent for file in Path(data_dir, name).glob(pattern)):
            this_config = '/'.join(folder.relative_to(Path(data_dir, name)).parts[:-1])
            if re.fullmatch(VERSION, folder.name) and config in (None, this_config) and version in (None, folder.name):
                found.append((this_config, tuple(map(int, folder.name.split('.'))), os.fspath(folder)))
    return found


def _read_json(folder, name):
    path = os.path.join(folder, name)
    try:
        return files.read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(path, f'cannot be read ({error})', FORMS) from error


@contextlib.contextmanager
def _understanding(folder, name):
    """UserError where a file of TFDS does not hold what the `with` block looks for in it."""
    try:
        yield
    except (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError) as error:
        reason = f'is not as TFDS writes it ({type(error).__name__}: {str(error)[:MOST_CHARACTERS]})'
        raise UserError(os.path.join(folder, name), reason, FIX) from error


def _choose_split(path, info, split):
    """The entry of dataset_info.json for 'train' or 'val'."""
    splits = {entry['name']: entry for entry in info.get('splits', [])}
    for name in SPLITS[split]:
        if name in splits:
            return splits[name]
    wanted = ', '.join(SPLITS[split])
    raise UserError(path, f'does not have a split for {split} ({wanted})', f'its splits: {", ".join(splits) or "none"}')


def _shards(path, root, info, split_info):
    """(names of the files of a split, how many examples each must hold), without empty ones."""
    from tensorflow_datasets.core import ShardedFileTemplate

    if FORMAT not in (info.get('fileFormat'), *info.get('alternativeFileFormats', [])):
        reason = f'is stored as {info.get("fileFormat", "an unknown format")}, which allows no random access here'
        raise UserError(path, reason, PREPARE)
    if not re.fullmatch(TEMPLATE, split_info['filepathTemplate']):  # TFDS formats it: a width could fill the memory
        raise ValueError('filepathTemplate is not a template of file names')
    template = ShardedFileTemplate(
        data_dir=Path(root),
        template=split_info['filepathTemplate'],
        dataset_name=info['name'],
        split=split_info['name'],
        filetype_suffix=FORMAT,
    )
    counts = [int(count) for count in split_info.get('shardLengths', [])]
    names = [os.path.relpath(file, root) for file in template.sharded_filepaths(len(counts))]
    if any(name != os.path.basename(name) for name in names):
        raise ValueError(f'{names[0]!r} is not a file of this folder')
    if not all(0 <= count < 2**31 for count in counts):
        raise ValueError('a number of examples is impossible')
    shards = [(name, count) for name, count in zip(names, counts, strict=True) if count]
    if not shards:
        raise UserError(path, f'does not have an example in split {split_info["name"]}', PREPARE)
    return tuple(zip(*shards, strict=True))


def _check_counts(root, names, counts):
    """DataError that names the first file which does not hold as many examples as it must."""

    def check(name, count):
        path = os.path.join(root, name)
        files.retried(path, lambda: ShardReader(path, count).close())

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        list(pool.map(check, names, counts))  # raises the first error


def _choose_feature(place, features, chosen):
    """The name of the feature with the frames, as records have it: keys joined by '/'."""
    found = dict(_frame_features(features, keys=(), is_sequence=False))
    names = [name for name, is_color in found.items() if is_color] or list(found)
    if chosen is None and len(names) == 1:
        return names[0]
    if chosen in found:
        return chosen
    if not found:
        raise UserError(
            place, 'does not have a feature that holds frames', 'it needs an 8-bit Video or Sequence of Images'
        )
    reason = f'does not have frames in {chosen}' if chosen else 'has several features that hold frames'
    raise UserError(place, f'{reason} (it has {", ".join(found)})', f'choose one: {place}#{names[0]}')


def _frame_features(feature, keys, is_sequence):
    """Yield (name, is_color) of all lists of 8-bit pictures in a node of features.json, not of lists of lists."""
    for key, inner in feature.get('featuresDict', {}).get('features', {}).items():
        yield from _frame_features(inner, (*keys, key), is_sequence)
    if 'sequence' in feature and not is_sequence:
        yield from _frame_features(feature['sequence']['feature'], keys, is_sequence=True)
    picture = feature.get('image' if is_sequence else 'video')
    if picture and picture['dtype'] == 'uint8':
        yield '/'.join(keys), picture['shape']['dimensions'][-1] != '1'
