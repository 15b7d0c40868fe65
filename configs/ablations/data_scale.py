"""Do more clips help? The whole schedule, with its cosine and warm-up, and 1/8, 1/4 and 1/2 of it (RVM, Table 3c).

    rvm sweep --config configs/ablations/data_scale.py --output runs/data_scale

For the paper's 250 M to 2 B clips, use --recipe configs/rvm_s.py; the shares of its steps are the same.
"""

from rvm_jax import ablation


def get_ablation():
    """Cells that differ in the number of steps."""
    return ablation.Ablation(
        question='share of the schedule', cells={share: (f'steps*={share}',) for share in ('0.125', '0.25', '0.5', '1')}
    )
