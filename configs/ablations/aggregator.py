"""Does a recurrent core do as well as attention over all source frames at once? (RVM, Table 3b and supplement 9)

rvm sweep --config configs/ablations/aggregator.py --output runs/aggregator
"""

from rvm_jax import ablation


def get_ablation():
    """The RNN and self-attention."""
    return ablation.Ablation(
        question='aggregator',
        cells={'RNN': ('model.core=rvmrnn',), 'self-attention': ('model.core=self_attention',)},
    )
