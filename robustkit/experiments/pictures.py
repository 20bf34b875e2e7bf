"""The images of an experiment: found and digested one after another, and read again when they are needed."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from robustkit.codec import Image
from robustkit.experiments.plan import SKIMAGE
from robustkit.images import PHOTOGRAPHS, ImageError, centre_crop, photographs, read, suffixes
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


def find(source: str, crop: int | None, note: Callable[[str], None] = lambda _: None) -> list[Picture]:
    """The images of a folder and of those in it, by the numbers in their names, or of a named set.

    No more than one is in memory at a time.

    Raises:
        ImageError: no such folder, no image in it, one that is unreadable or smaller than the crop.
    """
    if source == SKIMAGE and not Path(source).is_dir():
        return [_picture(name, "", crop or CROP) for name in PHOTOGRAPHS]
    folder = Path(source)
    if not folder.is_dir():
        raise ImageError(f"{source} is neither a folder nor a named set of images: give a folder, or {SKIMAGE}")
    known = suffixes()
    files = [path for path in folder.rglob("*") if path.is_file()]
    used = sorted((path for path in files if path.suffix.lower() in known), key=lambda path: _by_number(path, folder))
    if not used:
        raise ImageError(f"no image in {folder} or the folders in it: give files such as .png, .jpg, .webp or .tif")
    if len(used) < len(files):
        note(f"{len(used)} images in {folder}; {len(files) - len(used)} other files left aside")
    return [_picture(path.relative_to(folder).as_posix(), str(path.resolve()), crop or 0) for path in used]


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


def _by_number(path: Path, folder: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", path.relative_to(folder).as_posix())
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
