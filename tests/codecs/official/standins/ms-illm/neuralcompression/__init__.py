from typing import NamedTuple

import lpips  # noqa: F401  (as the original imports what coding does not use)
from fvcore.nn.jit_handles import get_shape  # noqa: F401


class HyperpriorCompressedOutput(NamedTuple):
    latent_strings: list
    hyper_latent_strings: list
    image_size: tuple
    padded_size: tuple
