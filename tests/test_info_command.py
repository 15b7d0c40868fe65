import dataclasses
import json

import cv2
import numpy as np
import pytest

from rvm_jax import cli, pretrained
from rvm_jax.models import architecture, build, param_names
from rvm_jax.models.encoders import image_architecture
from rvm_jax.planning.summary import preset
from rvm_jax.storage import lock_owner
from rvm_jax.synthetic.synthetic_videos import write_videos
from rvm_jax.visualization import movies


@pytest.fixture
def shown(capsys):
    """shown(words) -> {what: text} of what `rvm info` prints, by the first column."""

    def show(*words):
        assert cli.run('info', [str(word) for word in words]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if line]
        return {line.split()[0]: ' '.join(line.split()[1:]) for line in lines} | {'lines': len(lines)}

    return show


@pytest.mark.parametrize(
    ('size', 'parameters'),
    [
        ('s', '67,480,448 with decoder, 33,222,272 without'),
        ('b', '160,270,848 with decoder, 125,816,064 without'),
        ('l', '409,069,824 with decoder, 374,483,968 without'),
        ('h', '776,895,488 with decoder, 742,178,560 without'),
    ],
)
def test_a_recipe_tells_its_parameters(shown, size, parameters):
    rows = shown(f'configs/rvm_{size}.py')
    assert rows['parameters'] == parameters and rows['size'] == size


def test_a_recipe_tells_its_work_and_lists_every_key(shown):
    from rvm_jax import config as configs
    from rvm_jax.models import architecture, cost

    rows, config = shown('configs/rvm_s.py'), configs.load('configs/rvm_s.py')
    flops = cost.train_flops(architecture.SIZES['s'], num_source=4, num_target=4, image_size=256)
    assert f'{flops / 1e9:,.1f} GFLOP a clip' in rows['training'] and '2,048,000,000 in all' in rows['training']
    assert set(configs.flatten(config)) <= set(rows)
    assert rows['model.size'] == "'s'" and rows['optim.peak_lr'] == '0.0012'


@pytest.mark.parametrize(
    ('recipe', 'overrides', 'expected'),
    [
        ('dinov3_rvmrnn', [], {
            'parameters': '432,597,248 with decoder, 391,311,360 without',
            'size': 'l',
            'frozen': '303,129,600 parameters, of the encoder; 129,467,648 are trained',
            'encoder': 'dinov3, patch 16, width 1024, 24 layers, 16 heads, MLP 4096, CLS and 4 registers, frozen',
            'taps': '4_regular: after blocks 5, 11, 17, 23 from 0, adapters with bn, mean',
            'core': 'rvmrnn, 4 layers, 16 heads, MLP 4096; 71,384,064 parameters',
            'target': 'light_target: a ViT of 2 layers, 8 heads, MLP 2048, which trains',
        }),
        ('dinov3_gmmix', ['--config.model.size=h', '--config.objective.feature_weight=1'], {
            'size': 'h',
            'encoder': 'dinov3, patch 16, width 1280, 32 layers, 20 heads, gated MLP 5120, CLS and 4 registers, frozen',
            'core': 'gmmix, 4 layers, 16 heads, MLP 5120, 16 x 2560 numbers of state a token and layer; 133,358,080 '
                    'parameters',
            'target': 'light_target: a ViT of 2 layers, 8 heads, MLP 2048, which trains, and features of the encoder '
                      'are predicted',
        }),
        ('siglip2_rvmrnn', ['--config.model.taps=last', '--config.model.core=mamba', '--config.model.core_layers=2',
                            '--config.model.target=frozen_visible', '--config.model.size=l'], {
            'size': 'l but core_layers 2, not 4',
            'encoder': 'siglip2, patch 16, width 1024, 24 layers, 16 heads, MLP 4096, no CLS, frozen',
            'taps': 'last: after blocks 23 from 0, no adapters',
            'core': 'mamba, 2 layers, 16 x 2048 numbers of state a token and layer; 13,338,624 parameters',
            'target': 'frozen_visible: the encoder on visible patches',
        }),
    ],
)  # fmt: skip
def test_a_recipe_with_a_frozen_encoder_tells_its_parts(shown, recipe, overrides, expected):
    rows = shown(f'configs/{recipe}.py', *overrides)
    assert {what: rows[what] for what in expected} == expected


def test_overrides_are_applied_and_marked(shown):
    rows = shown('configs/rvm_s.py', '--config.model.core_mlp=1536', '--config.steps=1e3')
    assert rows['parameters'].startswith('65,905,536 with decoder')
    assert rows['size'] == 's but core_mlp 1536, not 2048'
    assert rows['steps'] == '1000 (default 1000000)'


def test_a_workdir_tells_how_far_it_came_and_where_to_look(shown, make_workdir, tmp_path):
    rows = shown(make_workdir(tmp_path / 'run'))
    assert rows['workdir'].endswith('(finished)') and rows['size'] == 'tiny'
    assert rows['recipe'] == 'rvm train --config configs/tiny.py' and rows['data'] == 'clips, 2 videos'
    assert rows['trained'] == 'for 20 of 20 steps, 160 clips' and rows['checkpoints'] == '10, 20'
    assert rows['last'] == 'logged step 20/20 loss 0.25 2.5 clips/s'
    assert rows['videos'] == '160 clips read, 3 could not be (data_report.json)'
    assert 'loss.png' in rows['pictures'] and rows['lines'] < 18


def test_a_workdir_before_its_first_step_is_shown_too(shown, make_workdir, tmp_path):
    run = make_workdir(tmp_path / 'run', steps=())
    for name in ('metrics.jsonl', 'data_report.json', 'images/loss.png'):
        (run / name).unlink()
    (run / 'run.lock').write_text('{"pid": 7, "host": "here", "since": "today"}')
    rows = shown(run)
    assert 'the same train command resumes it' in rows['workdir'] and rows['checkpoints'] == 'none'
    assert rows['run.lock'] == 'process 7 on here since today' and 'pictures' not in rows


def test_the_lock_of_a_run_that_is_gone_says_so(shown, make_workdir, tmp_path):
    run = make_workdir(tmp_path / 'run')
    owner = lock_owner.describe()
    for change, gone in (({}, False), ({'start': 'before'}, True)):
        (run / 'run.lock').write_text(json.dumps(owner | change))
        assert shown(run)['run.lock'].endswith('; it is gone, and the next start takes the lock over') == gone


def test_many_videos_are_summed_up(shown, tmp_path):
    write_videos(tmp_path / 'videos', 3, seed=0, num_frames=20, height=32, width=48, fps=10, num_workers=0)
    (tmp_path / 'videos' / 'bad.mp4').write_bytes(b'no video')
    (tmp_path / 'list.txt').write_text('videos/clip_00000.mp4\n')
    rows = shown(tmp_path / 'videos')
    assert '3 that open, 6 seconds' in rows['videos']
    assert rows['sizes'] == '48 x 32 (3)' and rows['rates'] == '10 (3)' and '1, such as' in rows['not']
    assert '1 that open' in shown(tmp_path / 'list.txt')['videos']


def test_exports_and_released_files_tell_their_sizes(shown, tmp_path):
    arch = dataclasses.replace(architecture.SIZES['tiny'], core_layers=1, patch_size=16, image_size=48)
    model = build.abstract(arch)
    named = {name: np.zeros(shape, np.float32) for name, shape in param_names.named_shapes(model).items()}
    model = param_names.from_named(model, named, 'zeros')
    pretrained.save_pretrained(model, tmp_path / 'export')
    pretrained.save_official(model, tmp_path / 'rvm.npz')
    for path, what in ((tmp_path / 'export', 'export'), (tmp_path / 'rvm.npz', 'RVM')):
        rows = shown(path)
        assert what in rows and rows['size'] == 'tiny but patch_size 16, not 8; core_layers 1, not 2'
        assert rows['parameters'].startswith(f'{sum(array.size for array in named.values()):,} with decoder')
        assert rows['core'] == 'rvmrnn, 1 layers, 2 heads, MLP 256; 83,328 parameters' and rows['weights'].startswith(
            'float32, '
        )
    assert shown(tmp_path / 'export')['trained'] == 'at 48 x 48 pixels, 95% masked'


def test_an_image_encoder_tells_its_family_and_sizes(shown, golden, tmp_path):
    rows = shown(golden('dinov3/swiglu').write(tmp_path / 'folder'))
    weights = (tmp_path / 'folder' / 'model.safetensors').stat().st_size
    assert rows['image'].startswith('encoder ') and rows['weights'] == f'{weights:,} bytes'
    assert rows['encoder'].startswith('dinov3, patch ') and 'gated MLP' in rows['encoder']
    assert rows['encoder'].endswith('registers') and 'frozen' not in rows and 'taps' not in rows
    assert rows['core'].startswith('none') and rows['parameters'].endswith(', no decoder')


def test_a_released_image_encoder_is_called_by_its_size():
    image = image_architecture.standard('dinov2', 'b')
    assert preset(architecture.image_only(image)) == 'b'
    assert preset(architecture.image_only(dataclasses.replace(image, layers=6))) == 'none of the presets'


def test_a_model_without_a_decoder_is_compared_without_it():
    assert preset(dataclasses.replace(architecture.SIZES['s'], decoder_width=0)) == 's'
    assert preset(dataclasses.replace(architecture.SIZES['s'], mask_ratio=0.5)) == 's'
    assert preset(architecture.Architecture(width=1, core_mlp=1, encoder_mlp=1, encoder_heads=1, core_heads=1)) == (
        'none of the presets'
    )


def test_a_video_tells_its_size_and_length(shown, tmp_path):
    frames = np.zeros((20, 16, 32, 3), np.uint8)
    movies.write_video(tmp_path / 'clip.mp4', frames, 10)
    rows = shown(tmp_path / 'clip.mp4')
    assert rows['size'] == '32 x 16 pixels, upright' and rows['frames'] == '20'
    assert rows['rate'] == '10.000 frames per second' and rows['duration'] == '2.00 s'


@pytest.mark.parametrize(
    ('words', 'code', 'reason'),
    [
        (['configs/none.py'], 2, 'does not exist'),
        (['configs/tiny.py', '--config.stepz=1'], 2, 'did you mean steps?'),
        (['nowhere'], 2, 'not a model: there is nothing'),
        (['nowhere', '--config.steps=1'], 2, '--config.steps=1: nowhere is not a recipe'),
        (['{tmp}/text.txt'], 65, 'cannot be read (No such file or directory)'),
        (['{tmp}/other.npz'], 2, 'not a released RVM file'),
    ],
)
def test_what_is_nothing_known_is_one_line(tmp_path, capsys, words, code, reason):
    (tmp_path / 'text.txt').write_text('some text')
    np.savez(tmp_path / 'other.npz', a=np.zeros(3, np.float32))
    assert cli.run('info', [word.format(tmp=tmp_path) for word in words]) == code
    message = capsys.readouterr().err
    assert reason in message and message.count('\n') == 1


@pytest.mark.parametrize(('name', 'values', 'where'), [
    ('processor', {'image_processor': {'image_mean': [0.5] * 3, 'image_std': [0.25] * 3, 'size': {'height': 24}}},
     'image_processor in processor_config.json, size {"height": 24}'),
    ('preprocessor', {'image_mean': [0.5] * 3, 'image_std': [0.25] * 3}, 'preprocessor_config.json'),
    ('other', {}, 'no file, usual for clip'),
])  # fmt: skip
def test_an_image_encoder_tells_how_pixels_are_normalized(shown, golden, tmp_path, name, values, where):
    path = golden('clip/openai').write(tmp_path)
    (tmp_path / f'{name}_config.json').write_text(json.dumps(values))
    numbers = (
        ('0.4815, 0.4578, 0.4082', '0.2686, 0.2613, 0.2758')
        if name == 'other'
        else ('0.5, 0.5, 0.5', '0.25, 0.25, 0.25')
    )
    assert shown(path)['pixels'] == 'in [0, 1], minus mean {}, divided by deviation {} ({})'.format(*numbers, where)


def test_a_folder_of_frames_is_a_video(shown, tmp_path):
    for name in ('a', 'b'):
        (tmp_path / 'in' / name).mkdir(parents=True)
        for number in range(5):
            cv2.imwrite(str(tmp_path / 'in' / name / f'{number}.jpg'), np.zeros((48, 64, 3), np.uint8))
    rows = shown(tmp_path / 'in' / 'a')
    assert rows['frames'] == '5' and rows['size'] == '64 x 48 pixels, upright' and rows['duration'] == 'not stated'
    assert rows['rate'].startswith('not stated: there is no fps.txt')
    rows = shown(tmp_path / 'in')
    assert '2 that open, length not stated' in rows['videos'] and rows['rates'] == 'not stated (2)'
    (tmp_path / 'in' / 'fps.txt').write_text('10')
    assert shown(tmp_path / 'in' / 'a')['duration'] == '0.50 s' and shown(tmp_path / 'in')['rates'] == '10 (2)'
