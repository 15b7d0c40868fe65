"""What do the choices of augmentation do? One crop a clip against one a frame, and bicubic alone (RVM, supplement 7).

    rvm sweep --config configs/ablations/augmentation.py --output runs/augmentation --seeds 0 1 2

The paper's words are "frame-level" and "bicubic"; the first cell is ours.
"""

from rvm_jax import ablation


def get_ablation():
    """Cells that differ in one key of data."""
    return ablation.Ablation(
        question='augmentation',
        cells={
            'one crop a clip': (),
            'one crop a frame': ('data.crop_level=frame',),
            'bicubic alone': ('data.resize=bicubic',),
        },
    )
