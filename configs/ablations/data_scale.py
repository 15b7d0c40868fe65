"""What do more clips give? The schedule, cosine and warm-up with it, is an eighth, a half, and whole (RVM, Table 3c).

    rvm sweep --config configs/ablations/data_scale.py --output runs/data_scale

The paper's 250 M to 2 B clips are --recipe configs/rvm_s.py with the same shares of its steps.
"""

from rvm_jax import ablation


def get_ablation():
    """Cells that differ in how long they train."""
    return ablation.Ablation(
        question='share of the schedule', cells={share: (f'steps*={share}',) for share in ('0.125', '0.25', '0.5', '1')}
    )
