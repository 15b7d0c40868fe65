"""Reading video files: what other packages call is here; how it works is in the modules, `decode` first."""

from rvm_jax.data.video.decode import Video, iterate_frames, open_video, probe, read_frames

__all__ = ['Video', 'iterate_frames', 'open_video', 'probe', 'read_frames']
