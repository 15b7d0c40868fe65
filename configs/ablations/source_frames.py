"""How many source frames does the core need? 1, 2 or 4 (RVM, Table 3a).

    rvm sweep --config configs/ablations/source_frames.py --output runs/source_frames

With --recipe configs/rvm_s.py, --config.steps=250_000 and real videos, this is the paper's experiment. The paper
reports 41.0, 47.2 and 52.3 on SSv2.
"""

from rvm_jax import ablation


def get_ablation():
    """Cells that differ in data.num_source alone."""
    return ablation.Ablation(
        question='source frames', cells={str(count): (f'data.num_source={count}',) for count in (1, 2, 4)}
    )
