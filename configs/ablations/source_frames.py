"""How many source frames does the core need? 1, 2 or 4 (RVM, Table 3a).

    rvm sweep --config configs/ablations/source_frames.py --output runs/source_frames

With --recipe configs/rvm_s.py, --config.steps=250_000 and real videos it is the paper's: SSv2 41.0, 47.2, 52.3.
"""

from rvm_jax import ablation


def get_ablation():
    """Cells that differ in data.num_source alone."""
    return ablation.Ablation(
        question='source frames', cells={str(count): (f'data.num_source={count}',) for count in (1, 2, 4)}
    )
