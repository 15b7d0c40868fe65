"""Your own videos with your own labels: a folder with a class a subfolder, or a CSV file.

root is one of:
- a folder with a subfolder for each class, which is searched to the bottom for videos
- a folder with train/ and val/ or test/, and in each of them a subfolder for each class
- a CSV file with a line path,label or path,label,split for each video. A first line with these names is optional. Paths
  are relative to the folder of the file; a split is train, val or test
"""

import collections
import copy
import csv
import dataclasses
import hashlib
import io
import json
import logging
import os
from typing import Any

from rvm_jax.data.dataset_manifest import file_entries
from rvm_jax.data.shard_format import MOST_CHARACTERS
from rvm_jax.data.sources.folder import FolderSource, bounded_lines, is_searched
from rvm_jax.errors import UserError
from rvm_jax.probing.datasets.reading.labelled_clips import LabelledVideos
from rvm_jax.probing.stratified import held_out as choose_held_out
from rvm_jax.storage import files

SPLITS = {'train': 'train', 'val': 'val', 'validation': 'val', 'test': 'test'}
LAYOUT = 'give a folder with a subfolder for each class, or a CSV file with lines path,label or path,label,split'
COLUMNS = ('path', 'label', 'split')
MOST_PIXELS, USUAL_FPS = 224, 10.0  # of a side; of a model that does not state its frame rate


@dataclasses.dataclass(frozen=True)
class OwnVideo:
    """One video: where the file is, its name below root, its class, and train, val, test or '' (not given).

    origin says in messages where it is listed. bytes and crc32, of both ends, are those of the file.
    """

    path: str
    name: str
    label: str
    split: str
    origin: str
    bytes: int = -1
    crc32: int = 0


class OwnVideos(LabelledVideos):
    """Clips of num_frames frames, stride apart; see LabelledVideos. All settings, and the schedule, are our choice.

    Without a given split, a share `held_out` of the videos of each class is held out for the score, see `stratified`.
    The score is over the val videos, or those of test if there are none; scored=test chooses. image_size and fps are
    those of the model's training (at most 224 pixels; 10 frames per second if the model does not state it) unless they
    are set, and a video with fewer frames per second keeps its own rate. Evaluation averages num_clips clips of each
    video. Nothing is mirrored, because labels may say left and right. Copies of a video count once, with a warning.
    `listed` has all videos, `facts` what results store.
    UserError for labels, paths or splits that cannot be used.
    """

    def __init__(
        self, root, split, *, held_out=0.2, scored=None, num_frames=16, image_size=None, stride=1, fps=None,
        num_clips=3, crop_area=(0.3, 1.0), flip=0.0, colors=False,
    ):  # fmt: skip
        self.listed = _with_splits(root, _distinct(_list_videos(os.fspath(root)), warn=split == 'train'), held_out)
        part = 'train' if split == 'train' else _scored_part(root, scored, {video.split for video in self.listed})
        classes = _classes(root, self.listed, part)
        videos = [video for video in self.listed if video.split == part]
        numbers = {label: number for number, label in enumerate(classes)}
        items = [(video.path, video.name, numbers[video.label]) for video in videos]
        self.facts = {'part': part, 'videos': len(videos), 'classes': len(classes), 'fingerprint': _fingerprint(videos)}
        super().__init__(
            items, classes, num_frames=num_frames, image_size=image_size, stride=stride, fps=fps,
            num_clips=1 if split == 'train' else num_clips, crop_area=crop_area, flip=flip, colors=colors,
        )  # fmt: skip

    def fitted(self, model: Any) -> 'OwnVideos':
        """The same videos with the size and the frame rate of the training of a model, where none is set."""
        fitted = copy.copy(self)
        fitted._image_size = self._image_size or min(model.image_size, MOST_PIXELS)
        fitted.most_fps = model.architecture.fps or USUAL_FPS
        return fitted

    @property
    def clip_format(self) -> dict[str, Any]:
        """Size and highest rate of the frames."""
        return {'image_size': self._image_size, 'most_fps': self._fps or self.most_fps}

    def table(self) -> str:
        """All videos as a CSV file that can be given as root: it keeps the split when videos are added."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator='\n')
        writer.writerows([COLUMNS, *([os.path.abspath(one.path), one.label, one.split] for one in self.listed)])
        return text.getvalue()


def _list_videos(root):
    if os.path.isdir(root):
        return _list_folder(root)
    if not os.path.exists(root):
        raise UserError(root, 'does not exist', LAYOUT)
    if not root.lower().endswith('.csv'):
        raise UserError(root, 'is neither a folder nor a CSV file', LAYOUT)
    return _list_table(root)


def _list_folder(root):
    """The videos of a folder of classes, or of folders train, val and test with classes in them."""
    folders = _subfolders(root)
    splits = {name: SPLITS[name] for name in folders if name in SPLITS}
    others = [name for name in folders if name not in splits]
    has_both = 'train' in splits and len(splits) > 1
    if splits and not others and not has_both:
        raise UserError(root, f'has {" and ".join(splits)} alone', 'give it train, and val or test beside it')
    if not has_both:
        return _list_classes(root, root, '')
    if others:
        reason = f'is beside {" and ".join(splits)}, and is none of train, val and test'
        raise UserError(os.path.join(root, others[0]), reason, 'move it out of this folder')
    return [
        video
        for name in sorted(splits)
        for video in _list_classes(root, os.path.join(root, name), splits[name])
    ]  # fmt: skip


def _list_classes(root, folder, split):
    classes = _subfolders(folder)
    if not classes:
        raise UserError(folder, 'does not have a subfolder, so there are no classes', LAYOUT)
    videos = []
    for name in FolderSource(folder).names:
        label, is_inside, _ = name.partition(os.sep)
        path = os.path.join(folder, name)
        if not is_inside:
            raise UserError(path, 'is not in the subfolder of a class', 'move it into one, or out of this folder')
        videos.append(OwnVideo(path, os.path.relpath(path, root), label, split, path))
    if empty := set(classes) - {video.label for video in videos}:
        path = os.path.join(folder, min(empty))
        raise UserError(path, 'is the folder of a class, but holds no video', 'add videos, or remove this folder')
    return videos


def _subfolders(folder):
    def listed():
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and is_searched(entry.name))

    return files.retried(folder, listed)


def _list_table(path):
    """The videos of a CSV file."""
    folder, rows, columns = os.path.dirname(path), list(_read_rows(path)), list(COLUMNS)
    if rows and {'path', 'label'} <= (names := {cell.lower() for cell in rows[0][1]}):
        if unknown := names - set(COLUMNS):
            raise UserError(rows[0][0], f'has a column {_shown(min(unknown))}', f'take {", ".join(COLUMNS)} alone')
        columns = [cell.lower() for cell in rows.pop(0)[1]]
    if not rows:
        raise UserError(path, 'does not list a video', LAYOUT)
    videos = [_video_of_row(origin, folder, cells, columns) for origin, cells in rows]
    if missing := [video for video in videos if not os.path.isfile(video.path)]:
        counted = f'{len(missing)} of {len(videos)} videos are missing'
        fix = f'correct the path; paths are relative to {folder or "."}'
        raise UserError(missing[0].origin, f'names {_shown(missing[0].name)}, which is not a file ({counted})', fix)
    return videos


def _read_rows(path):
    """Yield (where it is, its cells without blanks around them) of each line that is not empty."""
    fix = 'write it as text in UTF-8, with commas between the columns'
    try:
        files.check_regular(path)
        with open(path, encoding='utf-8-sig', errors='surrogateescape', newline='') as file:
            rows = csv.reader(bounded_lines(path, file, csv.field_size_limit(), fix), skipinitialspace=True)
            for cells in rows:
                if any(cells):
                    yield f'{path} line {rows.line_num}', [cell.strip() for cell in cells]
    except (OSError, csv.Error) as error:
        raise UserError(path, f'cannot be read ({getattr(error, "strerror", None) or error})', fix) from error


def _video_of_row(origin, folder, cells, columns):
    if not 2 <= len(cells) <= len(columns):
        counted = f'{len(cells)} column{"s" * (len(cells) != 1)}'
        raise UserError(origin, f'has {counted}', 'write path,label or path,label,split, with quotes around commas')
    row = dict(zip(columns, cells, strict=False))
    for column in ('path', 'label'):
        if not row.get(column):
            raise UserError(origin, f'does not have a {column}', 'write path,label or path,label,split')
    word = row.get('split', '')
    if word and word.lower() not in SPLITS:
        raise UserError(origin, f'has the split {_shown(word)}', f'take {", ".join(SPLITS)}')
    path = os.path.join(folder, os.path.expanduser(row['path']))
    return OwnVideo(path, row['path'], row['label'], SPLITS.get(word.lower(), ''), origin)


def _distinct(videos, warn):
    """Videos without copies, which have the same bytes at both ends. UserError if copies differ in label or split."""
    first: dict[Any, OwnVideo] = {}
    entries = file_entries('', [video.path for video in videos])
    for listed, (_, size, crc32) in zip(videos, entries, strict=True):
        video = dataclasses.replace(listed, bytes=size, crc32=crc32)
        other = first.setdefault((size, crc32) if size > 0 else video.path, video)
        if other.label != video.label:
            reason = f'is the same video as {other.origin}, but {_shown(video.label)} and not {_shown(other.label)}'
            raise UserError(video.origin, reason, 'give it one label')
        if other.split != video.split:
            reason = f'is the same video as {other.origin}, and one is for training and one is held out'
            if 'train' not in (video.split, other.split):
                reason = f'is the same video as {other.origin}, in another split'
            raise UserError(video.origin, reason, 'take one of them out')
    if warn and len(first) < len(videos):
        logging.getLogger(__name__).warning(
            '%d of %d videos are copies of others and are left out', len(videos) - len(first), len(videos)
        )
    return list(first.values())


def _with_splits(root, videos, share):
    """The videos, each with a split: as given, or a share of each class is held out as val."""
    given = [video for video in videos if video.split]
    if given and len(given) < len(videos):
        first = next(video for video in videos if not video.split)
        raise UserError(first.origin, 'does not have a split, but others have one', 'give a split to all, or to none')
    if given:
        return videos
    labels = [video.label for video in videos]
    for label, count in sorted(collections.Counter(labels).items()):
        if count < 2:
            reason = f'the class {_shown(label)} has one video, so none can be held out'
            raise UserError(root, reason, 'add a video to this class, or give a split')
    held_N = choose_held_out([video.name for video in videos], labels, share)
    return [
        dataclasses.replace(video, split='val' if is_held else 'train')
        for video, is_held in zip(videos, held_N, strict=True)
    ]


def _scored_part(root, scored, parts):
    """The split that is scored: val or test."""
    there = sorted(parts - {'train'}, reverse=True)
    if not there:
        raise UserError(root, 'does not have a video in val or test', 'give a split of val or test to some, or to none')
    if scored is not None and scored not in there:
        raise UserError(
            f'--set data.scored={scored}', f'has no video; there is {" and ".join(there)}', 'choose another'
        )
    return scored or there[0]


def _classes(root, videos, part):
    """The sorted classes of the training videos."""
    classes = sorted({video.label for video in videos if video.split == 'train'})
    if not classes:
        raise UserError(root, 'does not have a video in train', 'give the split train to some videos, or none to all')
    if unknown := [video for video in videos if video.split == part and video.label not in classes]:
        reason = f'is of the class {_shown(unknown[0].label)}, which no training video has'
        raise UserError(unknown[0].origin, reason, 'add videos of this class to train, or leave it out')
    if len(classes) < 2:
        raise UserError(root, f'has only the class {_shown(classes[0])}', 'give videos of two classes or more')
    return classes


def _fingerprint(videos):
    """16 hex digits of names, labels and files, so that scores of other videos do not compare with these."""
    facts = sorted([video.name, video.label, video.bytes, video.crc32] for video in videos)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _shown(text):
    return repr(text[:MOST_CHARACTERS])
