"""Priority maps: an encoder that spends its bits where the user's weights are large. The stream stays what it was."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from robustkit.codec import EncodeError, Image
from robustkit.codecs.rcc.base import RCCCodec, Read, check_fits
from robustkit.codecs.rcc.container import Header, P


class PriorityCodec(RCCCodec[P, Read]):
    """An RCC codec whose encoder compares atoms with the residual, and so can weight what the residual counts."""

    def encode(self, image: Image, weights: npt.ArrayLike | None = None) -> bytes:
        """Compress ``image``, first of all where it matters.

        The residual is multiplied by the weights before atoms are compared with it (Vaisman et al., arXiv
        2511.06424, priority-aware compression). A decoder needs to know nothing of them.

        Args:
            image: uint8 ``(H, W, 3)``.
            weights: importance of each pixel, ``(H, W)``, non-negative and finite, not all zero; only ratios count.

        Raises:
            EncodeError: the codec can't take this image, or these weights.
        """
        if weights is None:
            return super().encode(image)
        if self.published:
            raise EncodeError("weights with codebook 'reference': the published streams have none here")
        check_fits(image)
        padded = _padded(weights, image, self.prior.pixel_multiple)

        def write(header: Header[P], clean: Tensor) -> bytes:
            # The padded sides are multiples of the latent's, so this is the mean over each latent's pixels.
            pooled = F.adaptive_avg_pool2d(padded, (clean.shape[2], clean.shape[3]))
            return self._write(header, clean, pooled.to(clean.device))

        return self._encode(image, write)

    @abstractmethod
    def _write(self, header: Header[P], clean: Tensor, weights: Tensor | None = None) -> bytes:
        """The payload for clean latents ``(1, c, h, w)``, residuals multiplied by ``weights`` ``(1, 1, h, w)``."""


def _padded(weights: npt.ArrayLike, image: Image, multiple: int) -> Tensor:
    """Checked weights as float32 ``(1, 1, H, W)``, the largest 1, padded as the image is."""
    asked = f"give {image.shape[0]}x{image.shape[1]} weights, finite, not negative, and not all zero"
    try:
        found = np.asarray(weights)
    except ValueError as error:
        raise EncodeError(f"weights: {error}: {asked}") from error
    if found.dtype.kind not in "biuf":
        raise EncodeError(f"weights are {found.dtype}: {asked}")
    given = found.astype(np.float64)
    if given.shape != image.shape[:2]:
        raise EncodeError(f"weights of shape {given.shape}: {asked}")
    if not np.isfinite(given).all() or given.min() < 0 or given.max() == 0:
        raise EncodeError(f"weights from {given.min()} to {given.max()}: {asked}")
    # The published code multiplies by the weights as they are. Atoms are ranked alike by any multiple of them; with a
    # largest of 1 nothing overflows, and equal weights of any size give the very stream that none give.
    padding = [(0, -side % multiple) for side in given.shape]
    return torch.from_numpy(np.pad(given / given.max(), padding, mode="symmetric").astype(np.float32))[None, None]
