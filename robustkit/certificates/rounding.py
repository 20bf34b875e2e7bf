"""How far a quality may move where no pixel moves further than a codec's tolerance."""

from __future__ import annotations

import math

from robustkit.judging.regression import margin


def allowed(metric: str, measured: float, tolerance: tuple[float, float]) -> tuple[float, float]:
    """Between which values of ``metric`` the same picture may lie elsewhere, if its pixels keep to ``tolerance``.

    For PSNR that follows: pixels that differ by a grey levels at worst and b on average differ by sqrt(a b) at most
    in root mean square, and so do their distances to the original (the triangle inequality). For other metrics it is
    what the regression check takes for no change.
    """
    if metric != "psnr":
        near = margin(metric)
        return measured - near, measured + near
    error, apart = 255 * 10 ** (-measured / 20), math.sqrt(tolerance[0] * tolerance[1])
    least = 20 * math.log10(255 / (error + apart)) if error + apart > 0 else math.inf
    most = 20 * math.log10(255 / (error - apart)) if error > apart else math.inf
    return least, most
