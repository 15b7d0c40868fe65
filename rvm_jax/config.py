"""Every key of a run, once: its default, its unit and what it means.

A recipe is a file in `configs/` whose `get_config()` returns `default()` plus the lines that differ.
`load` reads one and applies `key=value` overrides; `check` finds contradictions before a device is touched.
Section numbers refer to the supplement of the RVM paper (arXiv 2512.13684) unless they name a module.
"""

import collections
import difflib
import os
import runpy
from collections.abc import Callable, Iterable
from typing import Any

from ml_collections import ConfigDict

from rvm_jax import key_hints, plugins
from rvm_jax.errors import ConfigErrors, UserError
from rvm_jax.models.catalog import CORES, ENCODERS, FROZEN_ENCODERS, core_keys
from rvm_jax.storage import files
from rvm_jax.terminal import say
from rvm_jax.values import in_type_of, parse_value

# Objectives by name, each a function like `pixel_loss`; imported only when it is asked for, because it needs JAX.
OBJECTIVES = {'pixels': 'rvm_jax.training.loss:pixel_loss'}
SIZES = ('tiny', 'mini', 's', 'b', 'l', 'h')
CHOICES = {
    'model.size': SIZES,
    'model.encoder': collections.ChainMap(FROZEN_ENCODERS, ENCODERS),  # by name, as they are when a config is checked
    'model.core': CORES,
    'model.taps': ('4_regular', '3_regular', '4_regular_and_conv', '3_regular_and_conv', 'with_layer_0', 'last'),
    'model.adapter_norm': ('bn', 'ln'),
    'model.aggregator': ('mean', 'xattn'),
    'model.target': ('auto', 'shared', 'light_target', 'frozen_visible', 'mask_token'),
    'model.precision': ('float32', 'official_mixed', 'bf16'),
    'model.softmax_dtype': ('float32', 'input'),
    'model.attention': ('auto', 'xla', 'by_head', 'cudnn', 'cudnn_padded', 'pallas'),
    'model.remat': ('none', 'dots', 'full'),
    'model.unroll': ('auto', 'false', 'layers', 'true'),
    'model.block_order': ('cross_mlp_self', 'self_mlp_cross'),
    'model.gelu': ('tanh', 'erf'),
    'model.position_resize': ('jax', 'torch'),
    'objective.name': OBJECTIVES,
    'objective.region': ('all', 'masked'),
    'data.source_start': ('first', 'random'),
    'data.delta_from': ('first', 'last'),
    'data.crop_level': ('clip', 'frame'),
    'data.resize': ('auto', 'bicubic'),
    'mesh.sharded': ('params', 'optimizer'),
}

# Keys that also take a part of one's own, MODULE:ATTRIBUTE. Paths of data do, too.
PLUGGABLE = {'model.core': plugins.CORE, 'objective.name': plugins.OBJECTIVE}

MASK_TOKEN = ('dinov3', 'dinov2')  # encoders whose training put a token in place of masked patches

POSITIVE = (
    'steps', 'batch_size', 'accumulate', 'data.num_source', 'data.num_target', 'data.fps', 'data.image_size',
    'data.clip_frames',
    'data.min_gap', 'data.decode_timeout', 'optim.eps', 'optim.max_nonfinite', 'checkpoint.every', 'checkpoint.keep',
    'log.every', 'log.eval_every', 'log.eval_clips',
    'hosts.start_timeout', 'hosts.heartbeat', 'hosts.step_timeout', 'profile.first',
)  # fmt: skip
NOT_NEGATIVE = (
    'seed', 'model.core_layers', 'model.core_mlp', 'objective.feature_weight', 'data.num_workers', 'optim.peak_lr',
    'optim.end_lr', 'optim.weight_decay', 'optim.clip_norm', 'checkpoint.keep_every', 'log.images_every',
    'profile.steps',
)  # fmt: skip
FRACTIONS = (
    'ema', 'model.mask_ratio', 'model.core_dropout', 'data.flip', 'data.max_failures', 'optim.warmup', 'optim.b1',
    'optim.b2',
)  # fmt: skip
BELOW_ONE = ('ema', 'model.mask_ratio', 'model.core_dropout', 'optim.b1', 'optim.b2')


def default() -> ConfigDict:
    """The paper's RVM-S pre-training recipe; where the paper gives no number the comment says whose it is."""
    c = ConfigDict()
    c.seed = 0  # everything random follows from it
    c.steps = 1_000_000  # optimizer steps
    c.batch_size = 2048  # clips a step, over all devices
    c.accumulate = 1  # parts that a device computes its clips in, one after the other: less memory, the same step
    c.ema = 0.0  # decay of a moving average of the weights, which evaluation and export then use; 0: none
    c.init_from = ''  # any model path to start a fresh run from; resuming needs no key
    c.model = _model()
    c.objective = _objective()
    c.data = _data()
    c.optim = _optim()
    c.mesh = _mesh()
    c.hosts = _hosts()
    c.checkpoint = _checkpoint()
    c.log = _log()
    c.profile = _profile()
    return c.lock()  # a recipe cannot add a key by misspelling one


def _model():
    """Which model, and how it is computed."""
    m = ConfigDict()
    m.size = 's'  # tiny, mini, s, b, l, h: widths and depths, see models/architecture.py
    # Encoder: the image encoder, and how its tokens are used.
    m.encoder = 'vit'  # vit: trained, shared by source and target frames; dinov3, dinov2, siglip2, mae, clip: imported
    # and frozen; rvm: the ViT of another RVM, frozen
    m.encoder_path = ''  # where its weights are: Hugging Face folder or .pth; for rvm an export folder or released .npz
    m.taps = '4_regular'  # frozen encoders: which depths are used, see models/adapters.py; last: no adapters
    m.adapter_norm = 'bn'  # bn: over all tokens of a step; ln: each token by itself
    m.aggregator = 'mean'  # of depths: mean, or xattn (the last one attends to all)
    # How target frames reach the decoder. shared: through the vit; light_target: a small ViT of its own, for frozen
    # encoders; frozen_visible: the frozen encoder on visible patches; mask_token: the frozen encoder on all patches,
    # with its own mask token at hidden ones; auto: shared with vit, else light_target.
    m.target = 'auto'
    # Core: what carries time.
    m.core = 'rvmrnn'  # rvmrnn, mamba, mambamix, gmmix, self_attention: see models/cores; MODULE:CLASS of your own
    m.core_layers = 0  # 0: the preset's
    m.core_dropout = 0.1  # dropout and stochastic depth in the Mamba cores
    m.output_norm = False  # rvmrnn: another norm on its features, as in the public PyTorch code for probes
    m.mask_ratio = 0.95  # hidden fraction of each target frame
    m.shared_mask = False  # one mask for the whole batch, as the released demo draws it
    # Arithmetic: none of these changes the model, but for rounding.
    m.precision = 'bf16'  # float32, official_mixed (as released), bf16
    m.softmax_dtype = 'float32'  # official_mixed only: attention weights stay float32, or take the dtype of their input
    m.attention = 'auto'  # auto: fused where the device has it; xla, by_head, cudnn, cudnn_padded, pallas: attention.py
    m.remat = 'dots'  # what the backward pass recomputes: none, dots (matrix products are kept), full (all of a block)
    m.unroll = 'auto'  # which loops are inlined, which compiles longer: false, layers, true (all); auto: layers on GPUs
    # Where the release, the paper and the PyTorch ports differ.
    m.block_order = 'cross_mlp_self'  # as released; self_mlp_cross is the paper's Listing 2
    m.gate_bias = False  # the paper's Listing 1 has biases, its equations and the release have none
    m.state_norm = True  # norm on the state before it is attended to; absent from the paper's equations
    m.gelu = 'tanh'  # tanh as released in JAX, erf as in the PyTorch ports
    m.delta_embedding = True  # tell the decoder how far away the target is; in the release, not in the paper
    m.position_resize = 'jax'  # cubic a=-0.5 with antialias; torch: a=-0.75 without
    m.core_mlp = 0  # hidden width of the core's MLP; 0: the preset's (2048 for S as released, 1536 would be 4 x width)
    return m


def _objective():
    """What the loss compares."""
    o = ConfigDict()
    o.name = 'pixels'  # what training minimizes, see OBJECTIVES, or MODULE:FUNCTION; the other keys are its settings
    o.region = 'all'  # pixels that count: all (paper) or masked
    o.patch_norm = False  # targets normalized patch by patch, as in MAE
    o.feature_weight = 0.0  # frozen encoders: weight of predicting the encoder's own features of the target
    return o


def _data():
    """Which videos, and how a clip is cut out of one."""
    d = ConfigDict()
    d.path = ''  # folder, glob, or text file with a list of videos (files, or folders of numbered pictures); folder of
    # shards; TFDS name or folder; MODULE:CLASS of your own
    d.mixture = ()  # several of these instead: ((path, frames per second, weight), ...), or a recipe that has them
    d.eval_path = ''  # held-out videos, same forms as path; empty: no evaluation
    d.num_source = 4  # consecutive frames watched
    d.num_target = 4  # frames rebuilt
    d.fps = 10.0  # frames per second after resampling; three quarters of the paper's mixture
    d.image_size = 256  # pixels, height and width
    d.clip_frames = 64  # frames a clip spans at most
    d.min_gap = 4  # frames from the last source to a target, inclusive
    d.max_gap = 48
    d.source_start = 'first'  # first: frame 0 of the clip (supplement 7); random: anywhere that all gaps still fit
    # (main text)
    d.delta_from = 'first'  # deltas counted from the first source frame (release) or the last (paper)
    d.flip = 0.5  # probability of a horizontal flip, one draw a clip
    d.crop_area = (0.3, 1.0)  # fraction of the frame
    d.crop_ratio = (0.75, 1.25)  # width / height
    d.crop_level = 'clip'  # one crop a clip (ours, as in V-JEPA); frame: one a frame, as supplement 7 says
    d.resize = 'auto'  # averages over areas where a crop shrinks by more than 1.2 (ours); bicubic: always, as the paper
    d.prepare_gb = 1.0  # a folder of at most so many gigabytes of videos becomes shards in the workdir before training,
    # where each video is read 10 times or more; 0: never. Shards are read many times faster
    d.num_workers = 8  # decoding processes on each host; 0 decodes in the training process
    d.decode_timeout = 30.0  # seconds a clip may take before it is given up
    d.max_failures = 0.1  # share of clips that may fail before the run stops
    d.allow_change = False  # resume although the files under data.path, keys of data, seed or batch_size changed since
    return d


def _optim():
    """AdamW and its schedule."""
    t = ConfigDict()
    t.peak_lr = 1.2e-3  # 1.5e-4 x batch / 256 (MAE, VideoMAE); ours: 6e-4 for l and h. On the command line also auto:
    # the recipe's own rate x batch_size / the recipe's own batch_size
    t.end_lr = 0.0  # cosine ends here (MAE)
    t.warmup = 0.025  # fraction of the steps (VideoMAE)
    t.weight_decay = 0.05  # not on biases, norm scales and learned tokens (MAE, VideoMAE)
    t.b1 = 0.9
    t.b2 = 0.95  # (MAE)
    t.eps = 1e-8
    t.clip_norm = 1.0  # global gradient norm, 0 disables (ours)
    t.max_nonfinite = 5  # non-finite steps in a row before the run stops (ours)
    t.allow_change = False  # resume although keys of optim or steps, and so the schedule, changed since the run began
    return t


def _mesh():
    """How devices share the work."""
    s = ConfigDict()
    s.data = -1  # devices along each axis, -1 takes what is left; across slices of TPUs comes before within
    s.fsdp = 1  # weights, gradients and optimizer state are split over this axis (all devices of a slice where
    # there are fewer), the batch over both. 256 is too many: TPU compilers no longer gather, but add up whole layers
    s.sharded = 'params'  # params: all of those (FSDP); optimizer: its state alone, weights replicated (ZeRO-1)
    return s


def _hosts():
    """Only where several processes train together."""
    h = ConfigDict()
    h.start_timeout = 300  # seconds to wait for all processes at the start
    h.heartbeat = 100  # seconds of silence after which a process counts as dead and the others stop
    h.step_timeout = 1800  # seconds without a step after which a process stops, compiling not counted
    return h


def _checkpoint():
    """When the run is saved."""
    k = ConfigDict()
    k.every = 1000  # steps between saves; the last step is always saved
    k.keep = 3  # newest steps kept
    k.keep_every = 0  # also keep every n-th step for good, 0: none
    return k


def _log():
    """When the run reports."""
    g = ConfigDict()
    g.every = 50  # steps between progress lines and metrics
    g.images_every = 5000  # steps between pictures, 0: only at the end
    g.eval_every = 5000  # steps between evaluations on data.eval_path
    g.eval_clips = 256  # held-out clips an evaluation
    return g


def _profile():
    """Which steps are traced."""
    f = ConfigDict()
    f.steps = 0  # steps traced with XProf into the workdir's tensorboard folder, 0: none
    f.first = 10  # the first of them, counted from where this start of the run began
    return f


def load(
    path: str | os.PathLike,
    overrides: Iterable[str] = (),
    preflight: Callable[[ConfigDict], list[UserError]] | None = None,
) -> ConfigDict:
    """The config of a recipe file with `key=value` overrides, checked; raises ConfigErrors with every problem it finds.

    preflight(config), if given, adds UserErrors about data and sizes; it is called even if values are wrong.
    """
    recipe = find_recipe(path)
    config = _run_recipe(recipe)
    problems, usual, is_auto = [], (config.optim.peak_lr, config.batch_size), False
    for override in overrides:
        try:
            key, value = parse_override(override)
            is_auto = value == 'auto' if key == 'optim.peak_lr' else is_auto
            if not (is_auto and key == 'optim.peak_lr'):
                set_value(config, key, value)
        except UserError as error:
            problems.append(error)
    if is_auto:
        _scale_peak_lr(config, *usual)
    _expand_home(config)
    problems += check(config, os.path.dirname(recipe)) + (preflight(config) if preflight else [])
    if problems:
        raise ConfigErrors(problems)
    return config


def _scale_peak_lr(config, recipe_lr, recipe_batch):
    """Peak learning rate in proportion to the batch, as in MAE and VideoMAE, from the pair that the recipe has."""
    config.optim.peak_lr = recipe_lr * config.batch_size / recipe_batch
    say(
        f'optim.peak_lr=auto: {config.optim.peak_lr:.3g}, the {recipe_lr:g} of the recipe for {recipe_batch:,} clips a '
        f'step x {config.batch_size:,} / {recipe_batch:,}'
    )


def _expand_home(config):
    """Write ~ in paths as the folder it stands for: a recipe may have it, too."""
    config.init_from = files.expanded(config.init_from)
    config.model.encoder_path = files.expanded(config.model.encoder_path)
    config.data.path, config.data.eval_path = map(files.expanded, (config.data.path, config.data.eval_path))
    config.data.mixture = tuple((files.expanded(path), fps, weight) for path, fps, weight in config.data.mixture)


def find_recipe(path: str | os.PathLike) -> str:
    """A recipe where it is named, or among those shipped with the package, where 'rvm_s' is configs/rvm_s.py."""
    package = os.path.dirname(os.path.abspath(__file__))
    for name in (path, os.path.join('configs', f'{path}.py')):
        for folder in ('', package, os.path.dirname(package)):
            if os.path.isfile(os.path.join(folder, name)):
                return os.path.join(folder, name)
    raise UserError(path, 'does not exist', 'name a file such as configs/tiny.py')


def parse_override(text: str) -> tuple[str, str]:
    """'a.b=1' -> ('a.b', '1')."""
    key, equals, value = text.partition('=')
    if not equals:
        raise UserError(text, 'does not have a value', f'write --config.{text}=VALUE')
    return key, value


def set_value(config: ConfigDict, key: str, value: str) -> None:
    """Set config.a.b from text, in the type of its default; 1e4 and 10_000 are integers too.

    Raises UserError for an unknown key (naming the nearest one) or a value of another type.
    """
    known = flatten(config)
    if key not in known:
        raise UserError(f'--config.{key}', 'is not a key', key_hints.hint(key, known) or 'see config.py')
    section, _, name = key.rpartition('.')
    (config[section] if section else config)[name] = _parse(key, value, known[key])


def flatten(config: ConfigDict) -> dict[str, Any]:
    """{'a.b': value} of every key."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            flat.update({f'{name}.{key}': inner for key, inner in flatten(value).items()})
        else:
            flat[name] = value
    return flat


def from_dict(values: Any, origin: str | os.PathLike) -> ConfigDict:
    """A config from the nested dict that a run stored; keys that did not exist then have their defaults.

    Raises UserError, naming origin, for an unknown key or a value that does not fit.
    """
    known = flatten(config := default())
    try:
        stored = flatten(ConfigDict(values)) if isinstance(values, dict) else {}
    except (TypeError, ValueError, RecursionError):  # names with dots, or nested without end
        stored = {}
    unknown = ', '.join(sorted(set(stored) - set(known))[:8])
    if unknown or not stored:
        problem = f'has the unknown keys {unknown}' if unknown else 'holds no config'
        raise UserError(origin, problem, 'use the version of rvm_jax that wrote it')
    for key, value in stored.items():
        section, _, name = key.rpartition('.')
        value = as_mixture(value, origin) if key == 'data.mixture' else value
        value = str(value).lower() if key == 'model.unroll' else value  # once a bool
        if not _is_like(value, known[key]):
            raise UserError(origin, f'has {key}={value!r}', 'was it written by rvm_jax?')
        (config[section] if section else config)[name] = tuple(value) if isinstance(value, list | tuple) else value
    for mistake in _contradictions(config):
        raise UserError(origin, str(mistake), 'was it written by rvm_jax?')
    return config


def _is_like(value, default):
    """Whether a value out of a file has the type of a default, and no whole number takes more than 64 bits."""
    if isinstance(default, tuple):
        return isinstance(value, list | tuple) and (not default or all(_is_like(part, 0.0) for part in value))
    if type(value) is int and type(default) in (int, float):
        return abs(value) < 2**63
    return type(value) is type(default)


def _parse(key, text, default):
    """Text in the type of the default value."""
    if isinstance(default, str):
        if text == 'None':
            raise UserError(f'--config.{key}=None', 'is not text', f'leave it empty, --config.{key}=, for none')
        return text
    value = in_type_of(default, parse_value(text))
    if key == 'data.mixture':
        is_recipe = text.endswith('.py')
        value = (
            _run_recipe(find_recipe(text)).data.mixture if is_recipe else as_mixture(value, f'--config.{key}={text}')
        )
    elif isinstance(default, tuple):
        is_like_default = isinstance(value, list | tuple) and len(value) == len(default)
        are_numbers = is_like_default and all(isinstance(item, int | float) for item in value)
        value = tuple(map(float, value)) if are_numbers else text
    if type(value) is not type(default):
        raise UserError(
            f'--config.{key}={text}', f'expected {type(default).__name__}', f'give something like {default!r}'
        )
    return value


def as_mixture(value: Any, origin: str | os.PathLike) -> tuple[tuple[str, float, float], ...]:
    """((path, fps, weight), ...) with the right types, from nested lists or tuples. UserError otherwise."""
    try:
        parts = tuple((path, float(fps), float(weight)) for path, fps, weight in value)
        if all(isinstance(path, str) for path, _, _ in parts) and not isinstance(value, str):
            return parts
    except (TypeError, ValueError, OverflowError):
        pass
    raise UserError(origin, 'is not a list of (path, frames per second, weight)', "write (('shards/a', 10, 0.7), ...)")


def _run_recipe(path):
    try:
        names = runpy.run_path(path)
        if 'get_config' not in names:
            raise UserError(path, 'does not have get_config()', 'start from configs/tiny.py')
        config = names['get_config']()
    except (AttributeError, ImportError, LookupError, NameError, SyntaxError, TypeError, ValueError) as error:
        raise UserError(path, str(error).strip('"').replace('\\n', ' ').replace('\n', ' '), 'correct it') from error
    if not isinstance(config, ConfigDict) or flatten(config).keys() != flatten(default()).keys():
        raise UserError(path, 'get_config() does not return a changed config.default()', 'start from configs/tiny.py')
    config.data.mixture = as_mixture(config.data.mixture, f'{path}: data.mixture')
    return config


def check(config: ConfigDict, beside: str = '') -> list[UserError]:
    """Every contradiction within a config, as a list of UserErrors; what needs devices or files is checked later.

    The config is the user's: plug-ins that it names are imported, also from the folder `beside`.
    """
    problems = []
    for key, name, kind in plugin_parts(config):
        try:
            plugins.load(name, kind, beside)
        except UserError as error:
            problems.append(UserError(f'config.{key}={error.value}', error.reason, error.fix))
    return problems + _contradictions(config)


def plugin_parts(config: ConfigDict) -> list[tuple[str, str, plugins.Kind]]:
    """(key, name, kind) of every plug-in that a config names."""
    flat = flatten(config)
    parts = [(key, flat[key], kind) for key, kind in PLUGGABLE.items() if plugins.is_name(flat[key])]
    paths = [(key, flat[key]) for key in ('data.path', 'data.eval_path')]
    for key, path in [*paths, *(('data.mixture', path) for path, _, _ in config.data.mixture)]:
        name, _ = plugins.split_argument(path)
        if name and not os.path.lexists(path):
            parts.append((key, name, plugins.SOURCE))
    return parts


def is_choice(key: str, value: Any) -> bool:
    """Whether a key takes a value; a plug-in is one once it is imported. Keys without choices take any."""
    if key in PLUGGABLE and plugins.is_name(value):
        return plugins.is_there(value, PLUGGABLE[key])
    return key not in CHOICES or value in CHOICES[key]


def _contradictions(config):
    """The same for a config that may be anybody's: nothing is imported."""
    expect = _Expect(flatten(config))
    for part in (_check_choices, _check_numbers, _check_model, _check_encoder, _check_mesh, _check_data):
        part(expect.flat, expect)
    return expect.errors


class _Expect:
    """Collects a UserError for each expectation that a config does not meet."""

    def __init__(self, flat):
        self.flat, self.errors = flat, []

    def __call__(self, is_right, key, reason, fix):
        if not is_right:
            self.errors.append(UserError(f'config.{key}={self.flat[key]}', reason, fix))


def _check_choices(flat, expect):
    for key, choices in CHOICES.items():
        is_own = key in PLUGGABLE and plugins.is_name(flat[key])
        near = difflib.get_close_matches(str(flat[key]), choices, n=1)
        fix = f'did you mean {near[0]}?' if near else f'take one of {", ".join(choices)}' + (
            ', or your own as MODULE:NAME' if key in PLUGGABLE else '')  # fmt: skip
        expect(is_own or flat[key] in choices, key, 'is not a choice', fix)


def _check_numbers(flat, expect):
    for key in POSITIVE:
        expect(flat[key] > 0, key, 'must be above 0', 'give a positive number')
    for key in NOT_NEGATIVE:
        expect(flat[key] >= 0, key, 'must not be negative', 'give 0 or more')
    for key in FRACTIONS:
        expect(0 <= flat[key] <= 1, key, 'is a fraction', 'give a number from 0 to 1')
    for key in BELOW_ONE:
        expect(flat[key] < 1, key, 'must be below 1', 'give less than 1')


def _check_model(flat, expect):
    """Switches without effect among the contradictions."""
    expect(flat['model.mask_ratio'] > 0 or flat['objective.region'] == 'all', 'model.mask_ratio',
           'leaves nothing hidden for objective.region=masked', 'raise it')  # fmt: skip
    expect(flat['model.softmax_dtype'] == 'float32' or flat['model.precision'] == 'official_mixed',
           'model.softmax_dtype', 'works only with model.precision=official_mixed', 'leave it at float32')  # fmt: skip
    encoder, usual = flat['model.encoder'], flatten(default())
    with_key = collections.defaultdict(list)
    for core, entry in CORES.items():
        for key in entry.keys:
            with_key[key].append(core)
    core = flat['model.core']
    own: tuple[str, ...] = ()
    if plugins.is_name(core):  # what one that is not there reads is not known
        own = core_keys(core) if is_choice('model.core', core) else tuple(with_key)
    for keys, has_effect, why in (
        (('taps', 'adapter_norm', 'aggregator'), encoder not in ENCODERS, 'works only with a frozen encoder'),
        (('adapter_norm', 'aggregator'), flat['model.taps'] != 'last', 'has no effect with model.taps=last'),
        *(((key,), core in cores or key in own, f'works only with model.core={", ".join(cores)}')
          for key, cores in with_key.items()),
    ):  # fmt: skip
        for key in keys:
            is_usual = flat[f'model.{key}'] == usual[f'model.{key}']
            expect(has_effect or is_usual, f'model.{key}', why, f'leave it at {usual[f"model.{key}"]}')


def _check_encoder(flat, expect):
    """What goes with a frozen encoder, and with one that is trained."""
    encoder, target = flat['model.encoder'], flat['model.target']
    if encoder in ENCODERS:
        for_frozen = f'works only with a frozen encoder, and config.model.encoder is {encoder}'
        expect(not flat['model.encoder_path'], 'model.encoder_path', for_frozen, 'leave it empty')
        expect(target in ('auto', 'shared', 'light_target'), 'model.target', for_frozen, 'take auto')
        expect(not flat['objective.feature_weight'], 'objective.feature_weight', for_frozen, 'leave it at 0')
        return
    expect(target != 'shared', 'model.target', f'{encoder} is frozen', 'take auto, which is light_target')
    expect(target != 'mask_token' or encoder in MASK_TOKEN, 'model.target', f'{encoder} does not have a mask token',
           f'take light_target, or one of {", ".join(MASK_TOKEN)}')  # fmt: skip


def _check_mesh(flat, expect):
    for key in ('mesh.data', 'mesh.fsdp'):
        expect(flat[key] == -1 or flat[key] > 0, key, 'is a number of devices', 'give -1 (what is left), or 1 or more')
    is_open = (flat['mesh.data'], flat['mesh.fsdp']) == (-1, -1)
    expect(not is_open, 'mesh.data', 'config.mesh.fsdp is -1 too', 'set one of the two to a number')


def _check_data(flat, expect):
    for key in ('data.crop_area', 'data.crop_ratio'):
        pair = flat[key]
        expect(len(pair) == 2 and 0 < pair[0] <= pair[1], key, 'must be a range above 0', 'give (low, high)')
    largest = max(flat['data.crop_area'], default=0)
    expect(largest <= 1, 'data.crop_area', 'is a fraction of the frame', 'give at most 1')
    expect(not (flat['data.path'] and flat['data.mixture']), 'data.path', 'is set, and so is config.data.mixture',
           'leave one of them empty')  # fmt: skip
    expect(all(fps > 0 and weight > 0 for _, fps, weight in flat['data.mixture']), 'data.mixture',
           'has a frame rate or weight that is not above 0', 'leave out what should not be drawn')  # fmt: skip
    gap = flat['data.max_gap']
    expect(flat['data.min_gap'] <= gap, 'data.min_gap', f'is above max_gap={gap}', 'lower it')
    last = flat['data.num_source'] - 1 + gap
    expect(last < flat['data.clip_frames'], 'data.clip_frames', f'the farthest target is frame {last} of the clip',
           f'give {last + 1} or more, or lower max_gap')  # fmt: skip
    expect(not flat['model.delta_embedding'] or flat['data.clip_frames'] <= 64, 'data.clip_frames',
           'the delta embedding counts to 63', 'give at most 64, or turn model.delta_embedding off')  # fmt: skip
