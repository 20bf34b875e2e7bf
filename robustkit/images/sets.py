"""Images by the name of a set or from a folder, read when they are asked for: what ``--images`` takes.

Named sets lie in a cache of this user's. They come there by a download that the user allows, through pooch, and are
held to published digests.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image as PillowImage

from robustkit.extras import missing
from robustkit.images import ImageError, centre_crop, photographs, read, suffixes
from robustkit.pixels import Image

#: The set that needs neither a folder nor a download.
DEFAULT = "skimage"
#: In the environment: the folder that named sets lie in, in place of the user's cache.
CACHE = "ROBUSTKIT_IMAGES"
#: Of images that were read and are kept for the next who asks: at most so many bytes.
_KEPT = 1 << 28
#: Beside the images of a downloaded archive: their digests, written when the archive's own was checked.
_DIGESTS = "digests.json"


@dataclass(frozen=True)
class ImageSet:
    """A published set of images.

    Attributes:
        name: as ``--images`` takes it.
        what: the images, in words.
        count: how many.
        megabytes: to download.
        licence: on which terms.
        url: of the archive, or of the folder of the files.
        sha256: of the archive, in hexadecimal; ``None`` where each file has its own.
        files: file name -> SHA-256 in hexadecimal; empty where the archive has one.
    """

    name: str
    what: str
    count: int
    megabytes: int
    licence: str
    url: str
    sha256: str | None
    files: Mapping[str, str]


@functools.cache
def sets() -> Mapping[str, ImageSet]:
    """The published sets, by name."""
    found = json.loads(resources.files(__package__).joinpath("sets.json").read_text(encoding="utf-8"))
    return {
        name: ImageSet(
            name,
            given["what"],
            given["count"],
            given["megabytes"],
            given["licence"],
            given.get("archive") or given["base"],
            given.get("sha256"),
            given.get("files", {}),
        )
        for name, given in found.items()
    }


class Files(Mapping[str, Image]):
    """Image files by name, each read when it is asked for; the newest ones are kept, up to 256 MiB of pixels.

    Args:
        paths: name -> file, in order.
        crop: side in pixels to centre-crop to; ``None`` leaves them whole.

    Reading an item raises ImageError: unreadable, or smaller than ``crop``.
    """

    def __init__(self, paths: Mapping[str, Path], *, crop: int | None = None) -> None:
        self._paths, self._crop = dict(paths), crop
        self._read: OrderedDict[str, Image] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Image:
        path = self._paths[name]
        with self._lock:
            if name in self._read:
                self._read.move_to_end(name)
                return self._read[name]
        image = read(path)
        if self._crop is not None:
            image = centre_crop(image, self._crop, name)
        with self._lock:
            self._read[name] = image
            while sum(kept.nbytes for kept in self._read.values()) > _KEPT and len(self._read) > 1:
                self._read.popitem(last=False)
        return image

    def __contains__(self, name: object) -> bool:
        return name in self._paths

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def open_images(
    given: str = DEFAULT,
    *,
    crop: int | None = None,
    allow_downloads: bool = False,
    note: Callable[[str], None] | None = None,
) -> Mapping[str, Image]:
    """The images of a named set or of a folder and those below it.

    A name of a set is always the set; a folder of that name is ``./kodak24``. A folder that holds exactly a set's files
    under any names is that set, and its images have the set's names and order. Files are in the order of their names,
    numbers in them by value: ``2.png`` comes before ``10.png``.

    Args:
        given: "skimage", a name of :func:`sets`, or a folder.
        crop: side in pixels to centre-crop to. "skimage" is always cropped, to 256 if nothing is given.
        allow_downloads: whether a set that is not in the cache may be downloaded there.
        note: told what was found.

    Returns:
        name -> uint8, H x W x 3; but for "skimage" read when asked for.

    Raises:
        ImageError: no such set and no such folder, a set that is not here, no image in the folder, or one whose head
            is unreadable or that is smaller than ``crop``.
    """
    if given == DEFAULT:
        return photographs(256 if crop is None else crop)
    paths = find(given, allow_downloads=allow_downloads, note=note)
    for name, path in paths.items():
        _look(path, name, crop)
    return Files(paths, crop=crop)


def find(given: str, *, allow_downloads: bool = False, note: Callable[[str], None] | None = None) -> dict[str, Path]:
    """The files of a named set or of a folder and those below it, none of them opened as an image yet.

    Args:
        given, allow_downloads, note: as :func:`open_images` takes them, but for "skimage", which has no folder.

    Returns:
        name -> file, in order.

    Raises:
        ImageError: no such set and no such folder, a set that is not here, or no image in the folder.
    """
    tell = note or (lambda _: None)
    if given in sets():
        return _of_set(sets()[given], allow_downloads=allow_downloads, tell=tell)
    return _of_folder(Path(given), tell)


def cache() -> Path:
    """The folder that named sets lie in, each in a folder of its name."""
    if given := os.environ.get(CACHE):
        return Path(given)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "robustkit" / "images"


# -- folders ---------------------------------------------------------------------------------------------------------


def _of_folder(folder: Path, tell: Callable[[str], None]) -> dict[str, Path]:
    if not folder.is_dir():
        known = ", ".join([DEFAULT, *sets()])
        raise ImageError(f"{folder} is not a folder: give a folder of image files, or one of {known}")
    endings, aside = suffixes(), 0
    found: dict[str, Path] = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in files:
            path = Path(place, file)
            if file.startswith(".") or path.suffix.lower() not in endings or not path.is_file():
                aside += 1
            else:
                found[PurePosixPath(path.relative_to(folder)).as_posix()] = path
    left = f"; {aside} other file{'s' if aside > 1 else ''} left aside" if aside else ""
    if not found:
        raise ImageError(f"no image in {folder}{left}: it needs files such as .png, .jpg, .webp, .ppm or .tif")
    if (recognised := _recognised(found)) is not None:
        name, paths = recognised
        tell(f"{folder} holds {name}: {sets()[name].what}{left}")
        return paths
    tell(f"{len(found)} image{'s' if len(found) > 1 else ''} in {folder}{left}")
    return {name: found[name] for name in sorted(found, key=_natural)}


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key by which numbers are in the order of their values; equal ones fall back on the text."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def _recognised(found: Mapping[str, Path]) -> tuple[str, dict[str, Path]] | None:
    """The set whose files a folder's are, by their digests."""
    for one in sets().values():
        if one.files and len(found) == one.count:
            by_digest = {_sha256(path): path for path in found.values()}
            if set(by_digest) == set(one.files.values()):
                return one.name, {name: by_digest[digest] for name, digest in one.files.items()}
    return None


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(f"{path} can't be read: {error}") from error


def _look(path: Path, name: str, crop: int | None) -> None:
    """Find out from a file's head what would fail when it is read."""
    try:
        with PillowImage.open(path) as opened:
            width, height = opened.size
    except Exception:
        # It says what is wrong.
        read(path)
        raise
    if crop is not None and crop > min(width, height):
        raise ImageError(f"{name} is {width}x{height}: a crop of {crop} does not fit, give 1 to {min(height, width)}")


# -- named sets ------------------------------------------------------------------------------------------------------


def _of_set(one: ImageSet, *, allow_downloads: bool, tell: Callable[[str], None]) -> dict[str, Path]:
    folder = cache() / one.name
    digests = _digests(one, folder)
    lacking = [name for name in digests if not (folder / name).is_file()]
    if not digests or lacking:
        if not allow_downloads:
            raise ImageError(
                f"{one.name} is not in {folder}: give the folder where you have it, with --images DIR, or "
                f"--allow-downloads ({one.megabytes} MB from {one.url}; {one.licence})"
            )
        tell(f"downloading {one.name}, {one.megabytes} MB, to {folder}")
        digests = _download(one, folder)
    for name, digest in digests.items():
        if _sha256(folder / name) != digest:
            raise ImageError(f"{folder / name} has another SHA-256 than {one.name}'s: delete it, and fetch it anew")
    return {name: folder / name for name in digests}


def _digests(one: ImageSet, folder: Path) -> dict[str, str]:
    """File name -> SHA-256; empty where an archive was not unpacked here."""
    if one.files:
        return dict(one.files)
    try:
        found: Any = json.loads((folder / _DIGESTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ImageError(f"{folder / _DIGESTS} can't be read: {error}. Delete {folder}") from error
    sound = isinstance(found, dict) and all(
        isinstance(digest, str) and Path(name).name == name for name, digest in found.items()
    )
    if not sound or len(found) != one.count:
        raise ImageError(f"{folder / _DIGESTS} is not what was written there. Delete {folder}")
    return dict(found)


def _download(one: ImageSet, folder: Path) -> dict[str, str]:
    if lacking := missing("pooch"):
        raise ImageError(f"{one.name} can't be downloaded: {lacking}")
    import pooch

    try:
        folder.mkdir(parents=True, exist_ok=True)
        if one.sha256 is None:
            for name, digest in one.files.items():
                pooch.retrieve(f"{one.url}{name}", f"sha256:{digest}", fname=name, path=folder)
            return dict(one.files)
        archive = pooch.retrieve(one.url, f"sha256:{one.sha256}", fname=f"{one.name}.zip", path=folder)
        return _unpacked(one, Path(archive), folder)
    # pooch lets through what requests raises, an OSError, and says of a wrong digest that it is a ValueError.
    except (OSError, ValueError) as error:
        raise ImageError(f"{one.name} could not be downloaded: {error}") from error


def _unpacked(one: ImageSet, archive: Path, folder: Path) -> dict[str, str]:
    """Write an archive's images into ``folder``, their digests last, so that half an archive is none."""
    digests = {}
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            place = PurePosixPath(member.filename)
            if member.is_dir() or place.suffix != ".png" or place.name.startswith(".") or "__MACOSX" in place.parts:
                continue
            data = opened.read(member)
            (folder / place.name).write_bytes(data)
            digests[place.name] = hashlib.sha256(data).hexdigest()
    if len(digests) != one.count:
        raise ImageError(f"{archive} has {len(digests)} images, {one.name} has {one.count}")
    digests = {name: digests[name] for name in sorted(digests, key=_natural)}
    (folder / _DIGESTS).write_text(json.dumps(digests, indent=1), encoding="utf-8")
    archive.unlink()
    return digests
