"""Write any model as an export folder, or as one .npz in the released RVM layout.

Examples:
    rvm export --model runs/s --output rvm-s
    rvm export --model runs/s --step 20000 --output rvm-s.npz --format official
    rvm export --model pretrain_rvm_small16_256.npz --output rvm-s

An export folder holds config.json, model.safetensors, preprocessor_config.json and README.md, a model card with what a
workdir knows of its training; it can be uploaded to a model hub as it is.
"""

import argparse
import os
import sys

from rvm_jax.errors import UserError
from rvm_jax.storage import files

FORMATS = ('pretrained', 'official')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rvm export`."""
    parser.add_argument('--model', required=True, help='export folder, workdir, released RVM .npz, or image encoder')
    parser.add_argument('--output', required=True, help='folder, or with --format official an .npz file, to write')
    parser.add_argument('--step', type=int, help='step of a workdir (default: its newest)')
    parser.add_argument(
        '--format', choices=FORMATS, default='pretrained', help='export folder (default), or released RVM layout'
    )
    parser.add_argument('--overwrite', action='store_true', help='replace a model that is there')


def run(args: argparse.Namespace) -> None:
    """Write the model and print where it is."""
    check_output(args.model, args.output, args.format, args.overwrite)
    from rvm_jax import pretrained
    from rvm_jax.conversion.model_card import count, count_for_features
    from rvm_jax.models.param_names import named_shapes

    step, facts = describe(args.model, args.step)
    model = pretrained.load(args.model, step=step)
    try:
        if args.format == 'official':
            pretrained.save_official(model, args.output)
        else:
            pretrained.save_pretrained(model, args.output, facts=facts)
    except OSError as error:
        raise UserError(args.output, f'cannot be written ({error.strerror})', 'choose another --output') from error
    shapes = named_shapes(model)
    parameters = f'{count(shapes):,} parameters, {count_for_features(shapes):,} without the decoder'
    print(f'{args.output}: {parameters}' + (f', step {step}' if step is not None else ''))


def check_output(model: str, output: str, form: str, overwrite: bool) -> None:
    """Raise UserError if the output has the wrong kind of name, or must not be replaced; before anything is loaded."""
    from rvm_jax import pretrained

    if (form == 'official') != output.endswith('.npz'):
        fix = 'let --output end in .npz' if form == 'official' else 'add --format official, or name a folder'
        raise UserError(f'--output {output}', f'is not a name for --format {form}', fix)
    if files.is_remote(output):
        raise UserError(f'--output {output}', 'is in a bucket', 'export to this machine, and copy it there')
    if os.path.exists(output) and os.path.realpath(output) == os.path.realpath(model):
        raise UserError(f'--output {output}', 'is the model itself', 'choose another --output')
    if form == 'pretrained':
        pretrained.check_folder(output)
    if not overwrite and (os.path.isfile(output) or (os.path.isdir(output) and os.listdir(output))):
        raise UserError(f'--output {output}', 'is already there', 'pass --overwrite, or choose another --output')


def describe(path: str, step: int | None) -> tuple[int | None, dict[str, str]]:
    """(step of a workdir or None, {what: text} for the model card)."""
    from rvm_jax import config, pretrained
    from rvm_jax.training.checkpoint import FOLDER
    from rvm_jax.training.checkpoint_files import find_good_step
    from rvm_jax.training.run_record import run_facts

    if pretrained.model_kind(path) != 'workdir':
        return step, {'Converted from': os.path.basename(os.path.abspath(path))}
    found = find_good_step(os.path.join(path, FOLDER), step)
    if found is None:
        raise UserError(path, 'does not have a checkpoint', 'train there first, or name another model path')
    run = pretrained.read_run(path)
    return found[0], run_facts(path, run, config.from_dict(run.get('config'), path), found[0])


if __name__ == '__main__':
    from rvm_jax import cli

    cli.main(['export', *sys.argv[1:]])
