"""Every key of a run, once: its default, its unit and what it means.

A recipe is a file in `configs/` whose `get_config()` returns `default()` plus the lines that differ.
`load` reads one and applies `key=value` overrides; `check` finds contradictions before a device is touched.
Section numbers refer to the supplement of the RVM paper (arXiv 2512.13684) unless they name a module.
"""

import ast
import difflib
import os
import runpy

import ml_collections

from rvm_jax.errors import UserError

SIZES = ('tiny', 's', 'b', 'l', 'h')
CHOICES = {
    'model.size': SIZES,
    'model.encoder': ('vit',),
    'model.core': ('rvmrnn',),
    'model.precision': ('float32', 'official_mixed', 'bf16'),
    'model.softmax_dtype': ('float32', 'input'),
    'model.attention': ('auto', 'xla', 'by_head', 'cudnn'),
    'model.remat': ('none', 'dots', 'full'),
    'model.block_order': ('cross_mlp_self', 'self_mlp_cross'),
    'model.gelu': ('tanh', 'erf'),
    'model.position_resize': ('jax', 'torch'),
    'objective.region': ('all', 'masked'),
    'data.source_start': ('first', 'random'),
    'data.delta_from': ('first', 'last'),
    'data.crop_level': ('clip', 'frame'),
}


def default():
    """The paper's RVM-S pre-training recipe; where the paper gives no number the comment says whose it is."""
    c = ml_collections.ConfigDict()
    c.seed = 0  # everything random follows from it
    c.steps = 1_000_000  # optimizer steps
    c.batch_size = 2048  # clips a step, over all devices
    c.init_from = ''  # any model path to start a fresh run from; resuming needs no key

    m = c.model = ml_collections.ConfigDict()
    m.size = 's'  # tiny, s, b, l, h: widths and depths, see models/build.py
    m.encoder = 'vit'  # vit: trained, shared by source and target frames
    m.encoder_path = ''  # where the weights of an imported image encoder are
    m.core = 'rvmrnn'
    m.mask_ratio = 0.95  # hidden fraction of each target frame
    m.shared_mask = False  # one mask for the whole batch, as the released demo draws it
    m.precision = 'bf16'  # float32, official_mixed (as released), bf16
    m.softmax_dtype = 'float32'  # official_mixed only: attention weights stay float32, or go back to the input's dtype
    m.attention = 'auto'  # auto: fused where the device has it; xla, by_head, cudnn, see models/attention.py
    m.remat = 'dots'  # what is recomputed going back: none, dots (keep matrix products), full (keep nothing of a block)
    m.block_order = 'cross_mlp_self'  # as released; self_mlp_cross is the paper's Listing 2
    m.gate_bias = False  # the paper's Listing 1 has biases, its equations and the release have none
    m.state_norm = True  # norm on the state before it is attended to; absent from the paper's equations
    m.gelu = 'tanh'  # tanh as released in JAX, erf as in the PyTorch ports
    m.delta_embedding = True  # tell the decoder how far away the target is; in the release, not in the paper
    m.position_resize = 'jax'  # cubic a=-0.5 with antialias; torch: a=-0.75 without
    m.core_mlp = 0  # hidden width of the core's MLP; 0: the preset's (2048 for S as released, 1536 would be 4 x width)

    o = c.objective = ml_collections.ConfigDict()
    o.region = 'all'  # pixels that count: all (paper) or masked
    o.patch_norm = False  # targets normalized patch by patch, as in MAE

    d = c.data = ml_collections.ConfigDict()
    d.path = ''  # folder, glob, or text file with a list of videos
    d.eval_path = ''  # held-out videos, same forms; empty: no evaluation
    d.num_source = 4  # consecutive frames watched
    d.num_target = 4  # frames rebuilt
    d.fps = 10.0  # frames a second after resampling; three quarters of the paper's mixture
    d.image_size = 256  # pixels, height and width
    d.clip_frames = 64  # frames a clip spans at most
    d.min_gap = 4  # frames from the last source to a target, inclusive
    d.max_gap = 48
    d.source_start = 'first'  # first: frame 0 of the clip (supplement 7); random: wherever all gaps still fit (main text)
    d.delta_from = 'first'  # deltas counted from the first source frame (release) or the last (paper)
    d.flip = 0.5  # probability of a horizontal flip, one draw a clip
    d.crop_area = (0.3, 1.0)  # fraction of the frame
    d.crop_ratio = (0.75, 1.25)  # width / height
    d.crop_level = 'clip'  # one crop a clip; frame: one a frame, the literal reading of the paper
    d.num_workers = 8  # decoding processes on each host; 0 decodes in the training process
    d.decode_timeout = 30.0  # seconds a clip may take before it is given up
    d.max_failures = 0.1  # share of clips that may fail before the run stops
    d.allow_change = False  # go on although the files under data.path changed since the run began

    t = c.optim = ml_collections.ConfigDict()
    t.peak_lr = 1.2e-3  # 1.5e-4 x batch / 256 (MAE, VideoMAE); ours: 6e-4 for l and h
    t.end_lr = 0.0  # cosine ends here (MAE)
    t.warmup = 0.025  # fraction of the steps (VideoMAE)
    t.weight_decay = 0.05  # not on biases, norm scales and learned tokens (MAE, VideoMAE)
    t.b1 = 0.9
    t.b2 = 0.95  # (MAE)
    t.eps = 1e-8
    t.clip_norm = 1.0  # global gradient norm, 0 disables (ours)
    t.max_nonfinite = 5  # non-finite steps in a row before the run stops (ours)

    c.mesh = ml_collections.ConfigDict()
    c.mesh.data = -1  # devices along each axis, -1 takes what is left
    c.mesh.fsdp = 1

    k = c.checkpoint = ml_collections.ConfigDict()
    k.every = 1000  # steps between saves; the last step is always saved
    k.keep = 3  # newest steps kept
    k.keep_every = 0  # also keep every n-th step for good, 0: none

    g = c.log = ml_collections.ConfigDict()
    g.every = 50  # steps between progress lines and metrics
    g.images_every = 5000  # steps between pictures, 0: only at the end
    g.eval_every = 5000  # steps between evaluations on data.eval_path
    g.eval_clips = 256  # held-out clips an evaluation
    return c
