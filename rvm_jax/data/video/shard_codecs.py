"""How frames lie in a shard: in groups that decode by themselves, one JPEG or a few frames of H.264 to a group."""

import collections
import fractions
from collections.abc import Mapping, Sequence

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from rvm_jax.data.video.lazy_frames import FIX, MAX_PIXELS, LazyFrames, decoded, encoded
from rvm_jax.errors import DataError

QUALITY = {'jpeg': 90, 'h264': 20}  # of 100, higher is better; constant rate factor of 0 to 51, lower is better


def encode_group(frames: Sequence[np.ndarray], codec: str, quality: int) -> bytes:
    """One record (bytes) of frames HWC uint8: exactly one for JPEG; for H.264 a closed group, of even sides.

    ValueError if the codec cannot hold frames of that size.
    """
    if codec == 'jpeg':
        [frame_HWC] = frames
        bgr_HWC = cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2BGR)
        is_done, record = cv2.imencode('.jpg', bgr_HWC, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if not is_done:
            raise ValueError(f'{bgr_HWC.shape[1]} x {bgr_HWC.shape[0]} pixels are too many for JPEG')
        return record.tobytes()
    encoder = av.CodecContext.create('libx264', 'w')
    encoder.height, encoder.width = frames[0].shape[:2]
    encoder.pix_fmt, encoder.time_base, encoder.framerate = 'yuv420p', fractions.Fraction(1, 25), fractions.Fraction(25)
    encoder.thread_count, encoder.gop_size = 1, len(frames)  # the same bytes on every machine, one keyframe
    # fastdecode: reading costs half as much, for an eighth more bytes.
    encoder.options = {
        'crf': str(quality),
        'preset': 'medium',
        'tune': 'fastdecode',
        'x264-params': 'scenecut=0:open-gop=0',
    }
    packets = []
    for number, frame_HWC in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(frame_HWC, format='rgb24')
        frame.pts = number
        packets += encoder.encode(frame)
    return b''.join(bytes(packet) for packet in packets + encoder.encode(None))


def group_pictures(name: str, groups: Mapping[int, bytes], wanted: Sequence[tuple[int, int]], codec: str) -> LazyFrames:
    """LazyFrames of frames wanted, [(group, frame in it)] sorted, from groups {number: record}; name is for errors.

    DataError if a record cannot be decoded or has fewer frames.
    """
    if codec == 'jpeg':
        return encoded(name, [groups[group] for group, _ in wanted])
    places = collections.defaultdict(list)
    for group, place in wanted:
        places[group].append(place)
    frames = [frame for group in places for frame in _decode_h264(name, groups[group], places[group])]
    if len({frame.shape for frame in frames}) > 1:
        raise DataError(name, 'changes its size between frames', FIX)
    return decoded(np.stack(frames))


def _decode_h264(name, record, places):
    """The frames at these places, ascending, of a group."""
    count, wanted, reformatter = 0, set(places), VideoReformatter()
    decoder = av.CodecContext.create('h264', 'r')
    decoder.thread_count = 1
    decoder.options = {'max_pixels': str(MAX_PIXELS)}
    images: list[np.ndarray] = []
    try:
        for packet in [*decoder.parse(record), *decoder.parse(None), None]:
            for frame in decoder.decode(packet):
                if frame.is_corrupt or len(images) == len(places):
                    break
                if count in wanted:  # the others are not kept: a group may claim to hold any number
                    images.append(reformatter.reformat(frame, format='rgb24', threads=1).to_ndarray())
                count += 1
    except av.FFmpegError as error:
        raise DataError(name, f'holds frames that cannot be decoded ({error.strerror})', FIX) from error
    if len(images) < len(places):
        reason = f'holds frames that cannot be decoded ({count} of {places[-1] + 1} are there)'
        raise DataError(name, reason, FIX)
    return images
