"""Kinetics-400 and Kinetics-700: what people do (RVM, section 11; 4DS).

root holds train.csv and val.csv (or validate.csv; also in annotations/), with the columns label, youtube_id,
time_start, time_end, split; and the videos <youtube_id>_<start>_<end>.mp4, start and end in six digits, in train/ and
in val/ (or validate/), or in folders below them. The tables decide which edition it is.
"""

import csv
import io
import os

from rvm_jax.data.sources.folder import VIDEO_EXTENSIONS
from rvm_jax.probing.datasets.reading.dataset_files import MALFORMED, DatasetFiles, checked_split, described
from rvm_jax.probing.datasets.reading.labelled_clips import LabelledVideos, say_missing
from rvm_jax.storage import files

ORIGIN = DatasetFiles(
    'Kinetics', 'github.com/cvdfoundation/kinetics-dataset', 'train.csv, val.csv, train/<video>.mp4, val/<video>.mp4'
)
SPLITS = {'train': ('train',), 'val': ('val', 'validate', 'validation')}
COLUMNS = ('label', 'youtube_id', 'time_start', 'time_end')


class Kinetics(LabelledVideos):
    """Clips of num_frames frames, stride apart, at the rate of the file; see LabelledVideos.

    Evaluation averages num_clips clips of each video, spread evenly over it. Classes are the sorted labels of the two
    tables. Videos that are no longer on the web are left out: `missing` counts them, and one warning gives the number.
    A repeated line counts once; the same video at another time, or with another label, is another video. 17 frames with
    stride=1 are another published protocol. Our choice, because unpublished: crop_area, flip, where clips start, and no
    random colors.
    UserError if a table or all of the videos are missing.
    """

    def __init__(
        self, root, split, *, num_frames=16, image_size=224, stride=2, fps=None, num_clips=7, crop_area=(0.3, 1.0),
        flip=0.5, colors=False,
    ):  # fmt: skip
        names = checked_split(split, SPLITS)
        tables = {s: _read_table(_table(root, n)) for s, n in SPLITS.items() if s == split or _has_table(root, n)}
        classes = sorted({label for rows in tables.values() for label, *_ in rows})
        numbers = {label: number for number, label in enumerate(classes)}
        folder = ORIGIN.find(root, 'the videos', *names)
        found = _videos(folder)
        named = [(next((name for name in names if name in found), None), label) for label, *names in tables[split]]
        items = [(found[name], name, numbers[label]) for name, label in named if name]
        self.missing = len(tables[split]) - len(items)
        if not items:
            raise ORIGIN.missing(os.path.join(folder, tables[split][0][1] + '.mp4'), 'like every other video', root)
        say_missing('Kinetics', split, self.missing, len(tables[split]))
        super().__init__(
            items, classes, num_frames=num_frames, image_size=image_size, stride=stride, fps=fps,
            num_clips=1 if split == 'train' else num_clips, crop_area=crop_area, flip=flip, colors=colors,
        )  # fmt: skip


def _places(names):
    return [f'{folder}{name}.csv' for folder in ('', 'annotations/') for name in names]


def _has_table(root, names):
    return any(os.path.exists(os.path.join(root, place)) for place in _places(names))


def _table(root, names):
    return ORIGIN.find(root, 'the list of videos', *_places(names))


def _read_table(path):
    """[(label, name of the video, its name without times), ...]."""
    try:
        reader = csv.DictReader(io.StringIO(files.read(path).decode()))
        rows = list(reader)
        columns = reader.fieldnames or ()
    except (UnicodeDecodeError, csv.Error) as error:
        raise ORIGIN.broken(path, f'is not a CSV file ({error})') from error
    if not set(COLUMNS) <= set(columns):
        raise ORIGIN.broken(path, f'does not have the columns {", ".join(COLUMNS)}')
    if not rows:
        raise ORIGIN.broken(path, 'does not list a video')
    try:
        return [(row['label'], _name(row), row['youtube_id']) for row in rows]
    except MALFORMED as error:
        raise ORIGIN.broken(path, f'has a line that cannot be read ({described(error)})') from error


def _name(row):
    return f'{row["youtube_id"]}_{int(float(row["time_start"])):06d}_{int(float(row["time_end"])):06d}'


def _videos(folder):
    """{file name without extension: path} of every video below a folder."""
    found = {}
    for directory, _, names in os.walk(folder, followlinks=True):
        for stem, extension in map(os.path.splitext, names):
            if extension.lower() in VIDEO_EXTENSIONS:
                found[stem] = os.path.join(directory, stem + extension)
    return found
