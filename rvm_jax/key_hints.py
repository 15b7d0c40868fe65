"""What to write in place of a key that does not exist: names that other code has for ours, and the nearest."""

import difflib
from collections.abc import Iterable

# {what to write: names that others have for it, or for what is not a key here}
MEANT = {
    'did you mean optim.peak_lr?': 'lr learning_rate blr base_lr max_lr',
    'did you mean optim.end_lr?': 'min_lr final_lr',
    'did you mean optim.warmup? It is a fraction of the steps': 'warmup_steps warmup_epochs',
    'did you mean optim.weight_decay?': 'wd decay',
    'did you mean optim.b1 and optim.b2?': 'betas opt_betas',
    'did you mean optim.clip_norm?': 'clip_grad grad_clip max_grad_norm',
    'training is counted in steps: set steps to epochs x clips / batch_size': 'epochs num_epochs max_epochs epoch',
    'did you mean steps?': 'num_steps max_steps total_steps iterations num_iterations',
    'did you mean batch_size? It counts all devices': 'bs batchsize per_device_batch_size',
    'model.size sets it: tiny, s, b, l or h': 'patch patch_size tubelet_size depth width embed_dim num_heads',
    'did you mean model.mask_ratio?': 'masking_ratio mask',
    'did you mean data.num_source or data.clip_frames?': 'num_frames n_frames clip_length',
    'did you mean data.fps?': 'sampling_rate frame_rate stride frame_interval',
    'did you mean data.image_size?': 'input_size img_size resolution crop_size',
    'did you mean data.num_workers?': 'workers num_threads',
    'did you mean data.path?': 'dataset data_path train_path data_dir',
    'did you mean data.eval_path?': 'val_path valid_path test_path',
    'did you mean checkpoint.every?': 'save_every save_freq save_interval',
    'did you mean log.every?': 'log_every print_freq log_interval',
    'did you mean init_from?': 'finetune pretrained',
    'the command that began a run also resumes it': 'resume resume_from resume_path auto_resume',
}
OTHER_NAMES = {name: hint for hint, names in MEANT.items() for name in names.split()}


def hint(key: str, known: Iterable[str]) -> str | None:
    """What to write in place of a key: the one of that meaning or spelling, or None."""
    name = key.split('.')[-1]
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    known = list(known)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    near = near or [one for one in known if one.split('.')[-1] == name]
    return f'did you mean {near[0]}?' if near else None
