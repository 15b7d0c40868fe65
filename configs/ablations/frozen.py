"""Is it necessary to train the encoder? An RVM, and cores on the frozen encoder of that RVM.

    rvm sweep --config configs/ablations/frozen.py --output runs/frozen

In the frozen cells, the rows "image encoder" show that encoder by itself.
"""

from rvm_jax import ablation

FROZEN = ('model.encoder=rvm', 'model.encoder_path={trained}')


def get_ablation():
    """{trained} stands for the export of that cell."""
    cells = {'trained': ()}
    cells |= {f'frozen, {core}': (*FROZEN, f'model.core={core}') for core in ('rvmrnn', 'mamba')}
    return ablation.Ablation(question='encoder', cells=cells)
