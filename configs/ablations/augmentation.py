"""What do the augmentation choices change? One crop per clip or per frame, and bicubic resizing (RVM, supplement 7).

    rvm sweep --config configs/ablations/augmentation.py --output runs/augmentation --seeds 0 1 2

The paper says "frame-level" and "bicubic". The first cell is our default.
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
