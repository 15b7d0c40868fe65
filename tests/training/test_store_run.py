"""A whole run whose workdir is in a bucket."""

import pytest

from rvm_jax import pretrained
from rvm_jax.errors import Unavailable
from rvm_jax.storage import files
from rvm_jax.training import checkpoint
from rvm_jax.training.loop import train
from rvm_jax.training.writer import read_metrics


@pytest.mark.long
def test_a_run_in_a_bucket_that_fails_stops_and_resumes(store, recipe, monkeypatch, capsys):
    config = recipe('checkpoint.keep=3')
    save = checkpoint.Checkpoints.save

    def save_until_the_store_goes_away(self, step, *args):
        if step == 2:
            self.wait()
            store.fail(1, status=403, only='checkpoints')
        save(self, step, *args)

    store.fail(0.02)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoints, 'save', save_until_the_store_goes_away)
        with pytest.raises(Unavailable, match=r'checkpoints/4: does not answer'):
            train(config, store.path, pretrained.load)
    said = capsys.readouterr().err
    assert 'checkpoint 2 not written' in said
    assert 'failure 3 of 3' in said

    store.fail(0)
    assert pretrained.load(store.path).architecture.image_size == 16
    train(config, store.path, pretrained.load)
    assert 'resuming at step 1' in capsys.readouterr().err
    assert [entry['step'] for entry in read_metrics(f'{store.path}/metrics.jsonl')] == [1, 2, 3, 4, 5]
    found = {'checkpoints', 'config.json', 'data_manifest.json', 'data_report.json', 'images', 'metrics.jsonl'}
    assert set(files.names(store.path)) == found | {'tensorboard'}
    assert files.names(f'{store.path}/checkpoints') == ['3', '4', '5']
