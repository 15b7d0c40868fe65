"""Does the encoder have to be trained? An RVM, and each core on the frozen encoder of that RVM.

    rvm sweep --config configs/ablations/frozen.py --output runs/frozen

The rows "image encoder" of the frozen cells are that encoder by itself.
"""

from rvm_jax import ablation

FROZEN = ('model.encoder=rvm', 'model.encoder_path={trained}')


def get_ablation():
    """{trained} stands for the export of that cell."""
    cells = {'trained': ()}
    cells |= {f'frozen, {core}': (*FROZEN, f'model.core={core}') for core in ('rvmrnn', 'mamba')}
    return ablation.Ablation(question='encoder', cells=cells)
