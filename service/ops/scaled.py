"""A JPEG's header, and the length that its shorter side will be resized to -> the reduction at which it is decoded.

libjpeg reduces inside the DCT: frequencies that would be averaged away again are never computed. What is left of the
reduction is the bilinear resize's, as ever.
"""

from __future__ import annotations

from service.ops.header import ImageHeader

# The shorter side keeps at least this many times what it is resized to. The bilinear resize then mixes 2 x 2 reduced
# pixels, no more of the image than one pixel of the result stands for. Less changes more answers and saves little:
# what is left is mostly entropy decoding, which has to be done.
MARGIN = 2
REDUCTIONS = (8, 4, 2)  # libjpeg-turbo has others, but none of them is faster than decoding whole
MAX_ASPECT = 100  # of longer to shorter side; beyond it preprocess refuses the image, by the size that it has


def reduction(header: ImageHeader, resize_short: int) -> int:
    """8, 4 or 2 where an image is decoded at that fraction of its size, 1 where it is decoded whole.

    ``resize_short``: pixels. Sides that are no multiple of the reduction are rounded up.
    """
    short, long = sorted((header.width, header.height))
    if header.format != "JPEG" or long > MAX_ASPECT * short:
        return 1
    return next((denominator for denominator in REDUCTIONS if short >= denominator * MARGIN * resize_short), 1)
