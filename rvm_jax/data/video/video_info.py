"""What an open video says about itself, whatever it is stored as."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a video says about itself; None where it does not say.

    height and width are upright pixels, rotation the degrees counter-clockwise that make the stored frames so, once
    turned mirrored left and right if is_mirrored. has_times: it says when its frames are shown; else duration_s is 0.
    """

    num_frames: int | None
    fps: float | None
    duration_s: float
    height: int
    width: int
    rotation: int
    is_mirrored: bool = False
    has_times: bool = True
