"""The images of an experiment: found and digested one after another, and read again when they are needed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from robustkit.codec import Image
from robustkit.experiments.plan import SKIMAGE
from robustkit.images import PHOTOGRAPHS, ImageError, centre_crop, photographs, read, sets
from robustkit.isolation import fingerprint

#: Side of the centre crops of scikit-image's photographs, unless another is asked for.
CROP = 256


class Picture(NamedTuple):
    """An image that is not held in memory.

    Attributes:
        name: its path within the folder, with slashes, or its name in a named set.
        digest: SHA-256 of shape and pixels, after the crop.
        height, width: in pixels, after the crop.
        path: of its file; empty for scikit-image's.
        crop: side in pixels; 0 for none.
    """

    name: str
    digest: str
    height: int
    width: int
    path: str
    crop: int

    def load(self) -> Image:
        """Read it: uint8, H x W x 3.

        Raises:
            ImageError: it can't be read, or has other pixels by now.
        """
        image = _read(self.name, self.path, self.crop)
        if fingerprint(image) != self.digest:
            raise ImageError(
                f"{self.path or self.name} has other pixels than when the experiment began: put the old file back, or "
                "give --out another folder"
            )
        return image


def find(
    source: str,
    crop: int | None,
    note: Callable[[str], None] = lambda _: None,
    *,
    allow_downloads: bool = False,
) -> list[Picture]:
    """The images of a named set, or of a folder and of those in it, by the numbers in their names.

    No more than one is in memory at a time.

    Args:
        source: as :func:`robustkit.images.sets.open_images` takes it.
        crop: side in pixels of centre crops; ``None`` for whole images (256 for scikit-image's).
        note: told what was found.
        allow_downloads: whether a set that is not on this machine may be fetched.

    Raises:
        ImageError: no such set and no such folder, a set that is not here, no image, one that is unreadable or smaller
            than the crop.
    """
    if source == SKIMAGE:
        return [_picture(name, "", crop or CROP) for name in PHOTOGRAPHS]
    files = sets.find(source, allow_downloads=allow_downloads, note=note)
    return [_picture(name, str(path.resolve()), crop or 0) for name, path in files.items()]


def _picture(name: str, path: str, crop: int) -> Picture:
    image = _read(name, path, crop)
    return Picture(name, fingerprint(image), image.shape[0], image.shape[1], path, crop)


def _read(name: str, path: str, crop: int) -> Image:
    if not path:
        return _photographs(crop)[name]
    image = read(path)
    return centre_crop(image, crop, name) if crop else image


@functools.lru_cache(maxsize=1)
def _photographs(crop: int) -> dict[str, Image]:
    return photographs(crop)
