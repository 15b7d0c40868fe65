"""Pre-train from videos; the same command line resumes.

Example:
    rvm train --config configs/rvm_s.py --workdir runs/s --config.data.path=videos --config.batch_size=64

Any key of the recipe can be set as --config.KEY=VALUE; `rvm info configs/rvm_s.py` lists them all.
"""

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `rvm train`."""
    parser.add_argument('--config', required=True, metavar='RECIPE', help='recipe, such as configs/rvm_s.py')
    parser.add_argument(
        '--workdir', required=True, help='where checkpoints, numbers and pictures go; a folder, or gs://BUCKET/PATH'
    )
    parser.add_argument_group('any key of the recipe').add_argument(
        '--config.KEY', metavar='VALUE', dest='overrides', help='set it; 1e4 is accepted for an integer'
    )


def run(args: argparse.Namespace) -> None:
    """Train until the recipe's steps are done."""
    from rvm_jax import config, pretrained
    from rvm_jax.training.loop import train
    from rvm_jax.training.preflight import config_problems

    train(config.load(args.config, args.overrides, config_problems), args.workdir, pretrained.load)


if __name__ == '__main__':
    from rvm_jax import cli, huge_pages

    huge_pages.restart()
    cli.main(['train', *sys.argv[1:]])
