"""Images to test a codec with: scikit-image's photographs, a folder of one's own, or one file.

Everything comes out as uint8, H x W x 3, RGB; what cannot be had without a loss is refused, or noted where the picture
stays what one sees.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image as PillowImage
from PIL import ImageCms, ImageOps

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
#: Pillow opens these, and then needs a program or a handler that it does not bring; pages and films are no photographs.
_UNREAD = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})
#: How far into a file its head reaches, at most.
_HEAD = 1 << 20
_SHOWN = 3
#: A larger image is not decoded: 64 megapixels, which take a fifth of a gigabyte as RGB.
MOST_PIXELS = 1 << 26


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


def suffixes() -> frozenset[str]:
    """The endings of image files, in lower case: those of every format that Pillow can read here."""
    PillowImage.init()
    return frozenset(
        suffix for suffix, kind in PillowImage.EXTENSION.items() if kind in PillowImage.OPEN and kind not in _UNREAD
    )


def from_folder(
    path: str | Path, *, crop: int | None = None, note: Callable[[str], None] | None = None
) -> dict[str, Image]:
    """The images directly in the folder ``path``, in the order of their names.

    Args:
        crop: side in pixels to centre-crop to; ``None`` leaves them whole.
        note: told how many are used, what was left aside and why, and what :func:`read` says of them.

    Returns:
        file name with its ending -> uint8, H x W x 3.

    Raises:
        ImageError: no such folder, no image in it, or one that is unreadable or smaller than ``crop``.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ImageError(f"{folder} is not a folder: give a folder of image files")
    known, tell = suffixes(), note or (lambda _: None)
    files: list[Path] = []
    aside: dict[str, list[str]] = {}
    for entry in sorted(folder.iterdir()):
        if (why := _why_aside(entry, known)) is None:
            files.append(entry)
        else:
            aside.setdefault(why, []).append(entry.name)
    left = f"; left aside: {_counted(aside)}" if aside else ""
    if not files:
        raise ImageError(f"no image in {folder}{left}: it needs files such as .png, .jpg, .webp, .ppm or .tif")
    said: dict[str, list[str]] = {}
    images = {}
    for file in files:
        images[file.name] = read(file, note=partial(_hear, said, file))
    tell(f"{len(files)} image{'s' if len(files) > 1 else ''} in {folder}{left}")
    for text, names in said.items():
        tell(f"{text}: {_named(names)}")
    return images if crop is None else {name: centre_crop(i, crop, name) for name, i in images.items()}


def _why_aside(entry: Path, known: frozenset[str]) -> str | None:
    """Why something in a folder is no image, in the plural; ``None`` for one."""
    if entry.is_dir():
        return "folders"
    if not entry.exists():
        return "broken links"
    if not entry.is_file():
        return "pipes and devices"
    return None if entry.suffix.lower() in known else "files that don't end as an image that Pillow reads here"


def _hear(said: dict[str, list[str]], file: Path, text: str) -> None:
    said.setdefault(text.removeprefix(f"{file}: "), []).append(file.name)


def _counted(found: dict[str, list[str]]) -> str:
    return ", ".join(f"{what} ({_named(names)})" for what, names in found.items())


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


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
    applied: each loses nothing, and each is told to ``note``. So is that an animation is used by its first frame,
    and that colours are meant in another space than sRGB: samples are taken as they are.

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
            deep, frames, space = _is_deep(opened), _frames(opened), _colour_space(opened)
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
    if frames > 1:
        tell(f"{path}: the first of {frames} frames or pages is used")
    if space is not None:
        tell(f"{path}: its colour profile ({space}) was left off, the samples are taken for sRGB")
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


def _is_deep(opened: PillowImage.Image) -> bool:
    """Whether a file has more than 8 bits a sample although Pillow reads 8."""
    for tile in getattr(opened, "tile", []):
        codec, args = tile[0], tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        # PNG, TIFF; PPM, by its largest value; SGI, by its bytes a sample; the texture format for high dynamic range.
        if any(isinstance(arg, str) and (";16" in arg or arg.startswith("BC6H")) for arg in args):
            return True
        if codec in ("ppm", "ppm_plain") and isinstance(args[-1], int) and args[-1] > 255:
            return True
        if codec == "SGI16" or (codec == "sgi_rle" and args[-1] == 2):
            return True
    if opened.format in ("JPEG2000", "AVIF"):
        head = _head(opened)
        if opened.format == "AVIF":
            # In the decoder's configuration: the first bit is the tier, the second says 10 or 12 bits.
            at = head.find(b"av1C")
            return at >= 0 and bool(head[at + 6 : at + 7] and head[at + 6] & 0x40)
        at = head.find(b"\xff\x4f\xff\x51")
        count = int.from_bytes(head[at + 40 : at + 42], "big")
        return at >= 0 and any((depth & 0x7F) + 1 > 8 for depth in head[at + 42 : at + 42 + 3 * count : 3])
    # pillow-heif's.
    depth = opened.info.get("bit_depth", 8)
    return isinstance(depth, int) and depth > 8


def _head(opened: PillowImage.Image) -> bytes:
    file = getattr(opened, "fp", None)
    if file is None:
        return b""
    place = file.tell()
    file.seek(0)
    head: bytes = file.read(_HEAD)
    file.seek(place)
    return head


def _frames(opened: PillowImage.Image) -> int:
    try:
        return int(getattr(opened, "n_frames", 1)) if getattr(opened, "is_animated", False) else 1
    except EOFError:
        # Cut short behind the first.
        return 1


def _colour_space(opened: PillowImage.Image) -> str | None:
    """The name of an embedded colour profile that is not sRGB; ``None`` where there is none."""
    profile = opened.info.get("icc_profile")
    if not profile:
        return None
    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).strip()
    except (ImportError, OSError, TypeError, ValueError, ImageCms.PyCMSError):
        name = "one that can't be read"
    return None if "sRGB" in name else name or "one without a name"


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
