"""Visible target patches to tokens for the decoder."""

from einops import rearrange


def shared_encoder_tokens(encoder, target_BFHWC, visible_BFV):
    """Encode the visible patches of each target frame with the encoder of the source frames, (B, F, 1+V, D).

    Frames are folded into the batch: a target sees neither the source nor another target here.
    """
    frames = rearrange(target_BFHWC, 'b f h w c -> (b f) h w c')
    tokens = encoder.encode_visible(frames, rearrange(visible_BFV, 'b f v -> (b f) v'))
    return rearrange(tokens, '(b f) m d -> b f m d', b=target_BFHWC.shape[0])
