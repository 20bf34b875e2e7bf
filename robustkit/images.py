"""Images to test a codec with: scikit-image's photographs, a folder of one's own, or one file.

Everything comes out as uint8, H x W x 3, RGB; what cannot be had without a loss is refused.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image as PillowImage
from PIL import ImageOps

from robustkit.codec import Image
from robustkit.errors import RobustkitError

#: The colour photographs in scikit-image's wheel, by name.
PHOTOGRAPHS = {
    "astronaut": "astronaut.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "immunohistochemistry": "ihc.png",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
}
#: A larger image is not decoded: 64 megapixels, which take a fifth of a gigabyte as RGB.
MOST_PIXELS = 1 << 26
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"})


class ImageError(RobustkitError, ValueError):
    """An image, or a folder of them, that can't be used; the message says why and what to do."""


def photographs(crop: int = 256) -> dict[str, Image]:
    """The six colour photographs in scikit-image's wheel, the middle ``crop`` x ``crop`` pixels of each.

    Nothing is downloaded. The smallest side among them is 300 pixels.

    Returns:
        name -> uint8, crop x crop x 3.

    Raises:
        ImageError: ``crop`` is larger than a photograph, or scikit-image's files are not there.
    """
    # Not skimage.data.astronaut() and the like: they go through pooch, which may reach for the network.
    found = importlib.util.find_spec("skimage")
    if found is None or not found.submodule_search_locations:
        raise ImageError(
            "scikit-image is not installed, its photographs are the default images: pip install scikit-image"
        )
    folder = Path(found.submodule_search_locations[0], "data")
    return {name: centre_crop(read(folder / file), crop, name) for name, file in PHOTOGRAPHS.items()}


def from_folder(path: str | Path, *, crop: int | None = None) -> dict[str, Image]:
    """The images directly in the folder ``path``, in the order of their names.

    Args:
        crop: side in pixels to centre-crop to; ``None`` leaves them whole.

    Returns:
        file name -> uint8, H x W x 3.

    Raises:
        ImageError: no such folder, no image in it, or one that is unreadable or smaller than ``crop``.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ImageError(f"{folder} is not a folder: give a folder of image files")
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file())
    if not files:
        raise ImageError(f"no image in {folder}: it needs files that end in {', '.join(sorted(SUFFIXES))}")
    images = {file.name: read(file) for file in files}
    return images if crop is None else {name: centre_crop(i, crop, name) for name, i in images.items()}


def centre_crop(image: Image, crop: int, name: str) -> Image:
    """The middle ``crop`` x ``crop`` pixels, rounded towards the top left; ``name`` is for the error.

    Raises:
        ImageError: the image is smaller than that.
    """
    height, width = image.shape[:2]
    if not 1 <= crop <= min(height, width):
        raise ImageError(f"{name} is {width}x{height}: a crop of {crop} does not fit, give 1 to {min(height, width)}")
    top, left = (height - crop) // 2, (width - crop) // 2
    return np.ascontiguousarray(image[top : top + crop, left : left + crop])


def read(path: str | Path, *, data: bytes | None = None, note: Callable[[str], None] | None = None) -> Image:
    """Read one image file with Pillow as uint8, H x W x 3, RGB.

    Grey and palette images become RGB, a fully opaque alpha channel is left off, and an Exif orientation is
    applied: each loses nothing, and each is told to ``note``.

    Args:
        data: the file's bytes where they came another way, through a pipe; ``path`` is then for messages alone.

    Raises:
        ImageError: unreadable; or 16-bit, transparent, CMYK and the like, whose conversion is the user's.
    """
    try:
        with PillowImage.open(path if data is None else io.BytesIO(data)) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise ImageError(
                    f"{path} has {opened.width}x{opened.height} pixels and at most {MOST_PIXELS} are read: cut a part "
                    "out of it first, e.g. magick IN -gravity center -crop 4096x4096+0+0 OUT.png"
                )
            deep = any(";16" in str(tile.args) for tile in getattr(opened, "tile", []))
            oriented = ImageOps.exif_transpose(opened)
            turned = oriented.size != opened.size or opened.getexif().get(0x0112, 1) != 1
    except ImageError:
        raise
    except Exception as error:  # Pillow's readers raise whatever the parts of a damaged file lead to
        # What Pillow says then names no more than the file, or the bytes' place in memory.
        why = "Pillow knows no such image format" if isinstance(error, PIL.UnidentifiedImageError) else str(error)
        why = why or type(error).__name__
        raise ImageError(f"{path} can't be read as an image: {why}") from error
    tell = note or (lambda _: None)
    if turned:
        tell(f"{path}: turned upright as its Exif orientation says")
    mode = oriented.mode
    if deep or mode.startswith(("I", "F")):
        raise ImageError(
            f"{path} has more than 8 bits a sample and codecs take 8: convert it first, e.g. magick IN -depth 8 OUT.png"
        )
    if mode == "P" or "transparency" in oriented.info:
        oriented = oriented.convert("RGBA" if oriented.has_transparency_data else "RGB")
    if oriented.mode in ("RGBA", "LA", "PA"):
        if oriented.getchannel("A").getextrema() != (255, 255):
            raise ImageError(
                f"{path} is transparent and codecs take RGB: put it on a background first, "
                "e.g. magick IN -background white -alpha remove OUT.png"
            )
        tell(f"{path}: its alpha channel is opaque and was left off")
    elif mode in ("1", "L", "P"):
        tell(f"{path}: {'palette' if mode == 'P' else 'grey'} image converted to RGB")
    elif mode != "RGB":
        raise ImageError(
            f"{path} is {mode} and codecs take RGB: convert it first, e.g. magick IN -colorspace sRGB OUT.png"
        )
    return np.array(oriented.convert("RGB"), dtype=np.uint8)


def read_grey(path: str | Path) -> npt.NDArray[np.uint8]:
    """Read one image file with Pillow as uint8, H x W, where its red, green and blue are the same everywhere.

    Raises:
        ImageError: coloured, or :func:`read` refuses it.
    """
    image = read(path)
    if (image != image[..., :1]).any():
        raise ImageError(
            f"{path} is coloured and a map is grey: convert it first, e.g. magick IN -colorspace Gray OUT.png"
        )
    return np.ascontiguousarray(image[..., 0])
