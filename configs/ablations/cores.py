"""Which core? The four of RVM and of arXiv 2605.19137, each trained end to end.

rvm sweep --config configs/ablations/cores.py --output runs/cores
"""

from rvm_jax import ablation


def get_ablation():
    """One cell per core."""
    return ablation.Ablation(
        question='core',
        cells={core: (f'model.core={core}',) for core in ('rvmrnn', 'mamba', 'mambamix', 'gmmix')},
    )
