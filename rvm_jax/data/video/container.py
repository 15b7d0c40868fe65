"""Open a video file with FFmpeg, trusting neither the file nor the disk.

Python reads for FFmpeg, because FFmpeg takes a read that fails for the end of the file: it would say that a sound video
is short, or damaged. So an OSError that may pass comes out as it is, and everything else is a DataError. Other files
and addresses, which a playlist could name, cannot be reached.
"""

import contextlib
import functools
import os
import types
from collections.abc import Iterator

import av
from av.stream import Disposition

from rvm_jax.data.video.lazy_frames import MAX_PIXELS, check_size
from rvm_jax.data.video.mp4_tables import check_tables, has_jumps, has_ragged_end
from rvm_jax.errors import DataError
from rvm_jax.storage import files

CONTAINERS = {
    'protocol_whitelist': 'none',
    'format_whitelist': 'mov,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,ogg,h264,hevc,ivf,yuv4mpegpipe,gif',
}
DECODERS = {'max_pixels': str(MAX_PIXELS)}  # a damaged header may claim any size, and a frame any other
# FLV and MPEG program streams: FFmpeg finds out what is in them by decoding it, which these options do not reach.
NO_HEADER = (b'FLV', b'\0\0\1\xba')
HEAD = 4096  # bytes in which a container says how long it is
SLACK = 64  # bytes by which the size in an AVI may be wrong
EBML, SEGMENT = b'\x1a\x45\xdf\xa3', b'\x18\x53\x80\x67'
ASF, ASF_FILE = bytes.fromhex('3026b2758e66cf11a6d900aa0062ce6c'), bytes.fromhex('a1dcab8c47a9cf118ee400c00c205365')
FIX = 'remove or re-encode this video'
# Titles may be in any encoding. PyAV 19, which Python 3.11 does not get, reads them all and has no such argument.
ANY_TITLE = {'metadata_errors': 'replace'} if int(av.__version__.split('.')[0]) < 19 else {}


@contextlib.contextmanager
def open_container(path: str | os.PathLike, timeout_s: float | None = None) -> Iterator[av.container.InputContainer]:
    """FFmpeg's container (av.InputContainer) of a file, for as long as the `with` block lasts.

    Opening it may take timeout_s seconds. DataError with one line of reason, its details in brackets: missing, not a
    regular file (a FIFO is never opened), empty, not a video, no video stream, frames of more than MAX_PIXELS, or
    tables of more frames than any video has.
    """
    path = os.fspath(path)
    with _open_regular(path) as file:
        try:
            check_tables(path, file.fileno())
            container = _read_header(path, file.fileno(), timeout_s)
        except (av.FFmpegError, OSError) as error:
            raise_if_passing(path, error)
            is_other_kind = isinstance(error, av.ArgumentError)  # what FFmpeg says of a format left out of CONTAINERS
            reason = 'it is of a kind that is not read here' if is_other_kind else describe(error)
            raise DataError(path, f'cannot be opened as a video ({reason})', FIX) from error
        with container:
            yield container


def first_video_stream(path: str, container: av.container.InputContainer) -> av.VideoStream:
    """The first that is not a picture attached to it. DataError if there is none, or none that can be decoded."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        reason = 'has no video, only a picture attached to it' if container.streams.video else 'has no video stream'
        raise DataError(path, reason, FIX)
    stream = streams[0]
    if stream.codec_context is None:
        raise DataError(path, 'is in a codec that cannot be decoded here', FIX)
    check_size(path, stream.codec_context.height, stream.codec_context.width)
    return stream


def is_cut_off(path: str) -> bool:
    """Whether an AVI, ASF or Matroska file says that it is longer than it is. An MP4 cut off cannot be opened."""
    head, size = _read_at(path, 0, HEAD), os.stat(path).st_size
    if head.startswith(b'RIFF'):
        stated = int.from_bytes(head[4:8], 'little') + 8
        return size + SLACK < stated < 2**32
    if head.startswith(ASF) and ASF_FILE in head:
        place = head.index(ASF_FILE) + 40
        return size < int.from_bytes(head[place : place + 8], 'little')
    return head.startswith(EBML) and size < _matroska_end(head)


def is_joined(path: str) -> bool:
    """Whether another file lies behind a Matroska file or AVI: `cat a.mkv b.mkv`. FFmpeg searches the first alone."""
    head = _read_at(path, 0, HEAD)
    if head.startswith(b'RIFF'):
        end = int.from_bytes(head[4:8], 'little') + 8
        behind = _read_at(path, end, 12)
        return behind.startswith(b'RIFF') and behind.endswith(b'AVI ')  # a long AVI continues in one named AVIX
    end = _matroska_end(head)
    return end > 0 and _read_at(path, end, len(EBML)) == EBML


def is_edited(path: str) -> bool:
    """Whether an MP4 shows several parts of a video, one after the other. FFmpeg searches them as if they were one."""
    return _read(path, lambda number: has_jumps(path, number))


def is_ragged(path: str) -> bool:
    """Whether an MP4 of constant frame rate lacks some of its last frames."""
    return _read(path, lambda number: has_ragged_end(path, number))


def _read_at(path, place, count):
    return _read(path, lambda number: os.pread(number, count, place))


def _read(path, read):
    """What `read` finds in the file of a descriptor."""
    with _open_regular(path) as file:
        try:
            return read(file.fileno())
        except OSError as error:
            raise_if_passing(path, error)
            raise DataError(path, f'cannot be read ({describe(error)})', 'check the path') from error


def _matroska_end(head):
    """Bytes of a Matroska file according to it, 0 if it does not say."""
    end = _matroska_box_end(head, 0, EBML)
    return _matroska_box_end(head, end, SEGMENT) if end else 0


def _matroska_box_end(head, place, name):
    """Where a box of this name at this place ends; 0 if that is not known."""
    place += len(name)
    if not head.startswith(name, place - len(name)) or place >= len(head) or not head[place]:
        return 0
    count = 9 - head[place].bit_length()  # the first byte says how many the length has
    length, most = int.from_bytes(head[place : place + count], 'big') - 2 ** (7 * count), 2 ** (7 * count) - 1
    return place + count + length if length < most else 0


def raise_if_passing(path: str, error: Exception) -> None:
    """Raise an error of the disk or network that may pass, with the file's name; FFmpeg's own are about the data."""
    if isinstance(error, OSError) and not isinstance(error, av.FFmpegError) and files.may_pass(error):
        error.filename = path
        raise error


def describe(error: Exception | str) -> str:
    """One line of what FFmpeg or the disk says. Of data FFmpeg says no more than that it is not valid."""
    if isinstance(error, av.ArgumentError):
        return f'a frame is not valid, or has more than {MAX_PIXELS / 1e6:g} million pixels'
    return getattr(error, 'strerror', None) or str(error)


def _open_regular(path):
    """The file, open to be read."""
    try:
        if files.check_regular(path) == 0:
            raise DataError(path, 'is empty (0 bytes)', FIX)
        return open(path, 'rb', buffering=0)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise_if_passing(path, error)
        raise DataError(path, f'cannot be read ({describe(error)})', 'check the path') from error


def _read_header(path, number, timeout_s):
    """The container in the file of this descriptor; decoding fails for frames of more than MAX_PIXELS."""
    # Built-in functions: in one written in Python, Ctrl-C would be raised inside FFmpeg's callback and be lost there.
    read, seek = functools.partial(os.read, number), functools.partial(os.lseek, number)
    file = types.SimpleNamespace(name=path, read=read, seek=seek, tell=functools.partial(seek, 0, os.SEEK_CUR))
    how = {'timeout': timeout_s, **ANY_TITLE}
    is_known_late = read(max(map(len, NO_HEADER))).startswith(NO_HEADER)
    seek(0, os.SEEK_SET)
    if is_known_late:
        with av.open(file, container_options={**CONTAINERS, 'codec_whitelist': 'none'}, **how) as container:
            first_video_stream(path, container)
        seek(0, os.SEEK_SET)
    return av.open(file, options=DECODERS, container_options=CONTAINERS, **how)
