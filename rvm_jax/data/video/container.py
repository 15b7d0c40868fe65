"""Open a video file with FFmpeg, trusting neither the file nor the disk.

Python reads for FFmpeg, because FFmpeg takes a read that fails for the end of the file: it would say that a sound video
is short, or damaged. So an OSError that may pass comes out as it is, and everything else is a DataError. Other files
and addresses, which a playlist could name, cannot be reached.
"""

import contextlib
import functools
import os
import types

import av

from rvm_jax.data.video.lazy_frames import MAX_PIXELS, check_size
from rvm_jax.data.video.mp4_tables import check_tables
from rvm_jax.errors import DataError
from rvm_jax.storage import files

CONTAINERS = {
    'protocol_whitelist': 'none',
    'format_whitelist': 'mov,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,ogg,h264,hevc,ivf,yuv4mpegpipe,gif',
}
DECODERS = {'max_pixels': str(MAX_PIXELS)}  # a damaged header may claim any size, and a frame any other
# FLV and MPEG program streams: FFmpeg finds out what is in them by decoding it, which these options do not reach.
NO_HEADER = (b'FLV', b'\0\0\1\xba')
FIX = 'remove or re-encode this video'
# Titles may be in any encoding. PyAV 19, which Python 3.11 does not get, reads them all and has no such argument.
ANY_TITLE = {'metadata_errors': 'replace'} if int(av.__version__.split('.')[0]) < 19 else {}


@contextlib.contextmanager
def open_container(path, timeout_s=None):
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
            raise DataError(path, f'cannot be opened as a video ({describe(error)})', FIX) from error
        with container:
            yield container


def first_video_stream(path, container):
    """DataError if there is none, or none that can be decoded, or its frames are too large."""
    if not container.streams.video:
        raise DataError(path, 'has no video stream', FIX)
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise DataError(path, 'is in a codec that cannot be decoded here', FIX)
    check_size(path, stream.codec_context.height, stream.codec_context.width)
    return stream


def raise_if_passing(path, error):
    """Raise an error of the disk or network that may pass, with the file's name; FFmpeg's own are about the data."""
    if isinstance(error, OSError) and not isinstance(error, av.FFmpegError) and files.may_pass(error):
        error.filename = path
        raise error


def describe(error):
    """One line of what FFmpeg or the disk says."""
    if isinstance(error, av.ArgumentError):
        return f'the size of a frame is impossible, or more than {MAX_PIXELS / 1e6:g} million pixels'
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
