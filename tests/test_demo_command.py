import os

from rvm_jax import cli, demo, pretrained


def test_the_demo_leaves_a_model_and_a_report_and_prints_what_it_reached(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, 'NUM_TRAIN', 8)
    monkeypatch.setattr(demo, 'NUM_HELD_OUT', 8)
    monkeypatch.setattr(demo, 'FRAMES_SHOWN', 8)
    small = ['steps=2', 'data.image_size=16', 'data.num_workers=0', 'model.unroll=false', 'log.eval_clips=8']
    flags = [f'--config.{override}' for override in small]
    assert cli.run('demo', ['--output', str(tmp_path / 'demo'), *flags]) == 0
    assert pretrained.load(str(tmp_path / 'demo' / 'export')).image_size == 16
    card = (tmp_path / 'demo' / 'export' / 'README.md').read_text()
    assert '2 of 2 steps' in card and 'Held-out loss' in card
    page = (tmp_path / 'demo' / 'report.html').read_text()
    assert page.count('data:image/png') >= 3
    printed = capsys.readouterr().out
    assert 'copy the last source frame' in printed and os.path.join('demo', 'report.html') in printed
