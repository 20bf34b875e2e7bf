"""Golden reconstructions on disk: recording them, reading them, and comparing a codec with them.

One folder holds one codec on one device class, ``<golden>/<codec>/<cpu|cuda>/``: a bitstream (``.bin``) and the
reconstructions (``.png``) of each photograph, and ``manifest.json``, which names every file there and how far pixels
may stray. :func:`compare` never writes there and :func:`record` never judges.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from robustkit import channels
from robustkit.codec import Image, Layout
from robustkit.errors import RobustkitError
from robustkit.isolation import Decoded
from robustkit.outcome import Outcome
from robustkit.patterns import ErrorPattern
from robustkit.spelling import json_value

MANIFEST = "manifest.json"
#: What the seeded trials lost: robustkit.judging.golden_drops's file, which the manifest does not name.
DROPS = "drops.json"
VERSION = 1
#: Side length of the photographs' crops: small enough for the files to live in a repository.
CROP = 128
#: The fixed damage: light, heavy, and one burst.
CHANNELS = ("bsc(ber=0.001)", "bsc(ber=0.01)", "burst(length=32)")
#: Damage that is tried where a photograph shows nothing under those, because the codec refuses all of it.
MILDER = ("burst(length=1)", "burst(length=4)")
#: How often each of them is drawn, so many at a time; a format with check sums lets one in hundreds through.
_DRAWS, _CHUNK = 512, 64
#: How much further than the repeats a decode may stray, and what it may stray in any case: another CPU of the same
#: class rounds a pixel the other way here and there, while one wrong atom moves whole patches.
FACTOR = 2.0
FLOOR = (2.0, 0.05)


class GoldenError(RobustkitError, ValueError):
    """A golden folder that can't be read; the message names the file, what is wrong, and the way out."""


class Decode(Protocol):
    """Decode streams of one shape."""

    def __call__(self, bitstreams: Sequence[bytes], *, shape: tuple[int, int]) -> Sequence[Decoded]: ...


@dataclass(frozen=True)
class Tolerance:
    """How far pixels may stray from the golden ones, in grey levels of 0 to 255.

    Attributes:
        maximum: for the worst sample.
        mean: on average over all samples.
    """

    maximum: float
    mean: float

    def admits(self, expected: Image, actual: Image) -> bool:
        """Whether ``actual`` has the shape of ``expected`` and lies within the tolerance."""
        if expected.shape != actual.shape:
            return False
        maximum, mean = distance(expected, actual)
        return maximum <= self.maximum and mean <= self.mean


@dataclass(frozen=True)
class Reconstruction:
    """What one stream of a photograph decodes to.

    Attributes:
        pattern: "clean", or the channel that the error pattern was drawn from.
        flips, keep, append: the :class:`~robustkit.patterns.ErrorPattern` (``append`` in hexadecimal).
        outcome: "intact", "degraded" or "refused"; a failure is never recorded.
        file: the PNG's name, or ``None`` where there is no image.
    """

    pattern: str
    outcome: str
    file: str | None
    flips: tuple[int, ...] = ()
    keep: int | None = None
    append: str = ""

    def error_pattern(self, bits: int) -> ErrorPattern:
        """The damage, for a stream of ``bits`` bits."""
        return ErrorPattern(bits, np.array(self.flips, dtype=np.int64), self.keep, bytes.fromhex(self.append))


@dataclass(frozen=True)
class Photograph:
    """The golden files of one photograph: its bitstream's name and its reconstructions, the clean one first."""

    name: str
    bitstream: str
    reconstructions: tuple[Reconstruction, ...]


@dataclass(frozen=True)
class Manifest:
    """What a golden folder holds and how it was made.

    Attributes:
        codec, device: whose reconstructions, on which device class ("cpu", "cuda").
        settings: the codec's settings, none for its defaults.
        facts: what the codec said of itself: versions of native libraries, prior and its hash, device.
        tolerance: calibrated from repeats when recorded.
    """

    codec: str
    device: str
    settings: Mapping[str, Any]
    facts: Mapping[str, str]
    tolerance: Tolerance
    photographs: tuple[Photograph, ...]
    version: int = VERSION

    def files(self) -> set[str]:
        """Every file name that belongs in the folder, the manifest's included."""
        names = {MANIFEST}
        for photograph in self.photographs:
            names.add(photograph.bitstream)
            names.update(r.file for r in photograph.reconstructions if r.file is not None)
        return names


@dataclass(frozen=True)
class Mismatch:
    """One golden file that the codec no longer reproduces.

    Attributes:
        file: its name.
        what: what differs, in words.
        photograph: whose it is.
        reconstruction: which one, or ``None`` for the bitstream.
        expected, actual: the images, where there are any.
    """

    file: str
    what: str
    photograph: str
    reconstruction: Reconstruction | None = None
    expected: Image | None = None
    actual: Image | None = None


@dataclass(frozen=True)
class Coder:
    """The codec as this module needs it: everything runs elsewhere, in worker processes.

    Attributes:
        codec, device, settings, facts: as in :class:`Manifest`.
        encode: an image to its bitstream.
        layout: a bitstream to its regions.
        decode: streams of one shape to what becomes of them.
        repeats: other ways to decode the same streams (in a batch, in a fresh process, ...), used to calibrate.
    """

    codec: str
    device: str
    settings: Mapping[str, Any]
    facts: Mapping[str, str]
    encode: Callable[[Image], bytes]
    layout: Callable[[bytes], Layout]
    decode: Decode
    repeats: Sequence[Decode] = field(default=())


def folder(root: Path, codec: str, device: str) -> Path:
    """Where the golden files of ``codec`` on ``device`` live; a name can't lead out of ``root``."""
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", codec).strip("-") or "codec"
    return root / safe / device


def distance(expected: Image, actual: Image) -> tuple[float, float]:
    """The largest and the mean absolute difference of two images of one shape, in grey levels."""
    difference = np.abs(expected.astype(np.int16) - actual.astype(np.int16))
    return float(difference.max(initial=0)), float(difference.mean()) if difference.size else 0.0


def read(path: Path) -> Manifest:
    """Read a folder's manifest.

    Raises:
        GoldenError: missing, not JSON, another version, or a key of the wrong kind.
    """
    file = path / MANIFEST
    try:
        data = json_value(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GoldenError(f"{file} is missing") from None
    except (OSError, ValueError) as error:
        raise GoldenError(f"{file} can't be read: {error}") from error
    if not isinstance(data, dict) or data.get("version") != VERSION:
        raise GoldenError(f"{file} is not a golden manifest of version {VERSION}: record it anew")
    try:
        photographs = tuple(
            Photograph(
                str(p["name"]),
                _file_name(p["bitstream"]),
                tuple(_reconstruction(r) for r in p["reconstructions"]),
            )
            for p in data["photographs"]
        )
        return Manifest(
            codec=str(data["codec"]),
            device=str(data["device"]),
            settings=dict(data["settings"]),
            facts={str(k): str(v) for k, v in data["facts"].items()},
            tolerance=Tolerance(float(data["tolerance"]["maximum"]), float(data["tolerance"]["mean"])),
            photographs=photographs,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise GoldenError(f"{file} is damaged ({type(error).__name__}: {error}): record it anew") from error


def orphans(path: Path, manifest: Manifest) -> list[Path]:
    """Files in the folder that neither the manifest nor the regression gate knows."""
    known = {*manifest.files(), DROPS}
    return sorted(f for f in path.rglob("*") if f.is_file() and f.relative_to(path).as_posix() not in known)


def compare(path: Path, manifest: Manifest, coder: Coder, photographs: Mapping[str, Image]) -> list[Mismatch]:
    """Encode and decode anew, and say what differs from the golden files; empty if nothing does.

    On the device class that they were recorded on, the bitstreams must be the same to the bit; elsewhere of the same
    length, since another order of adding up tips a near tie in the encoder here and there. Of a codec that names no
    device they must be the same with the same libraries; others may encode otherwise. The reconstructions are
    those of the *golden* bitstreams, so that an encoder that strays doesn't hide what the decoder does.
    """
    found: list[Mismatch] = []
    exact = same_device_class(manifest, coder)
    one_length = "device" in {**manifest.facts, **coder.facts}
    known = {p.name for p in manifest.photographs}
    for name in sorted(photographs.keys() - known):
        found.append(Mismatch(MANIFEST, "has no golden files", name))
    for golden in manifest.photographs:
        original = photographs.get(golden.name)
        if original is None:
            found.append(Mismatch(golden.bitstream, "is of a photograph that is no longer there", golden.name))
            continue
        try:
            bitstream = (path / golden.bitstream).read_bytes()
        except OSError as error:
            found.append(Mismatch(golden.bitstream, f"can't be read: {error.strerror}", golden.name))
            continue
        actual_stream = coder.encode(original)
        if actual_stream != bitstream and (exact or (one_length and len(actual_stream) != len(bitstream))):
            found.append(Mismatch(golden.bitstream, _first_difference(bitstream, actual_stream, coder), golden.name))
        found += _compare_pixels(path, manifest, golden, bitstream, original, coder)
    return found


def same_device_class(manifest: Manifest, coder: Coder) -> bool:
    """Whether the codec says that it computes as it did when recorded.

    Its fact "device" decides, or where it has none all but its settings: the versions of its native libraries.
    """
    if "device" in manifest.facts or "device" in coder.facts:
        return manifest.facts.get("device") == coder.facts.get("device")
    before, now = ({k: v for k, v in facts.items() if k != "settings"} for facts in (manifest.facts, coder.facts))
    return before == now


def _compare_pixels(
    path: Path,
    manifest: Manifest,
    golden: Photograph,
    bitstream: bytes,
    original: Image,
    coder: Coder,
) -> Iterator[Mismatch]:
    usable: list[tuple[Reconstruction, bytes]] = []
    for reconstruction in golden.reconstructions:
        try:
            usable.append((reconstruction, reconstruction.error_pattern(8 * len(bitstream)).apply(bitstream)))
        except ValueError as error:
            yield Mismatch(
                golden.bitstream,
                f"does not fit its error pattern {reconstruction.pattern}: {error}",
                golden.name,
            )
    shape = (original.shape[0], original.shape[1])
    decoded = coder.decode([stream for _, stream in usable], shape=shape)
    for (reconstruction, _), actual in zip(usable, decoded, strict=True):
        name = reconstruction.file or golden.bitstream
        image = actual.image
        if image is None or reconstruction.file is None:
            now = "an image" if actual.outcome is None else actual.outcome.value
            if now != reconstruction.outcome:
                yield Mismatch(
                    name,
                    f"under {reconstruction.pattern} was {reconstruction.outcome}, now {now}",
                    golden.name,
                    reconstruction,
                    None if reconstruction.file is None else _expected(path / reconstruction.file),
                    image,
                )
            continue
        expected = _expected(path / reconstruction.file)
        if expected is None:
            yield Mismatch(name, "is missing or not a PNG", golden.name, reconstruction, None, image)
        elif expected.shape != image.shape:
            yield Mismatch(
                name,
                f"is {_size(expected)}, the decode {_size(image)}",
                golden.name,
                reconstruction,
                expected,
                image,
            )
        elif not manifest.tolerance.admits(expected, image):
            maximum, mean = distance(expected, image)
            allowed = manifest.tolerance
            yield Mismatch(
                name,
                f"differs by up to {maximum:g} grey levels, {mean:.3g} on average "
                f"(tolerance {allowed.maximum:g} and {allowed.mean:.3g})",
                golden.name,
                reconstruction,
                expected,
                image,
            )


def record(path: Path, coder: Coder, photographs: Mapping[str, Image]) -> Manifest:
    """Write the golden files anew; files of the manifest that stood there before, and no others, are removed.

    Raises:
        GoldenError: a stream's decode fails (crashes, hangs, ...), which no golden file may hold.
    """
    written: dict[str, bytes] = {}
    entries: list[Photograph] = []
    strays: list[tuple[float, float]] = [(0.0, 0.0)]
    for name, original in photographs.items():
        bitstream = coder.encode(original)
        layout = coder.layout(bitstream)
        patterns: dict[str, ErrorPattern] = {"clean": ErrorPattern(8 * len(bitstream))}
        for channel in CHANNELS:
            drawn = channels.parse(channel).draw(8 * len(bitstream), layout, codec=coder.codec, image=name, trial=0)
            patterns[channel] = drawn
        shape = (original.shape[0], original.shape[1])
        streams = [pattern.apply(bitstream) for pattern in patterns.values()]
        decoded = list(coder.decode(streams, shape=shape))
        if {d.judged(decoded[0].image) for d in decoded[1:]} <= {Outcome.REFUSED, Outcome.INTACT}:
            found = _milder(name, bitstream, layout, decoded[0], shape, coder)
            if found is not None:
                patterns.update([found])
                streams.append(found[1].apply(bitstream))
                decoded += coder.decode(streams[-1:], shape=shape)
        for repeat in coder.repeats:
            for first, again in zip(decoded, repeat(streams, shape=shape), strict=True):
                if first.image is None or again.image is None:
                    if first.outcome is not again.outcome:
                        raise GoldenError(f"photograph {name}: one stream decodes to different outcomes on repeats")
                    continue
                strays.append(distance(first.image, again.image))
        written[f"{name}.bin"] = bitstream
        reconstructions = []
        for (title, pattern), actual in zip(patterns.items(), decoded, strict=True):
            file = None
            outcome = actual.judged(decoded[0].image)
            if outcome.failure or (title == "clean" and actual.image is None):
                raise GoldenError(f"photograph {name}, {title}: the decode was {outcome}; mend the codec first")
            if actual.image is not None:
                file = f"{name}.{re.sub(r'[^a-z0-9.]+', '-', title).strip('-')}.png"
                written[file] = png(actual.image)
            reconstructions.append(
                Reconstruction(
                    title,
                    outcome.value,
                    file,
                    tuple(int(f) for f in pattern.flips),
                    pattern.keep,
                    pattern.append.hex(),
                )
            )
        entries.append(Photograph(name, f"{name}.bin", tuple(reconstructions)))
    tolerance = Tolerance(
        max(FLOOR[0], FACTOR * max(s[0] for s in strays)), max(FLOOR[1], FACTOR * max(s[1] for s in strays))
    )
    manifest = Manifest(coder.codec, coder.device, dict(coder.settings), dict(coder.facts), tolerance, tuple(entries))
    _write(path, manifest, written)
    return manifest


def _milder(
    name: str, bitstream: bytes, layout: Layout, clean: Decoded, shape: tuple[int, int], coder: Coder
) -> tuple[str, ErrorPattern] | None:
    """The first of :data:`MILDER`'s damage that the codec makes another picture of, and its channel."""
    for channel, first in product(MILDER, range(0, _DRAWS, _CHUNK)):
        drawn = [
            channels.parse(channel).draw(8 * len(bitstream), layout, codec=coder.codec, image=name, trial=number)
            for number in range(first, first + _CHUNK)
        ]
        found = coder.decode([pattern.apply(bitstream) for pattern in drawn], shape=shape)
        for pattern, decoded in zip(drawn, found, strict=True):
            if decoded.judged(clean.image) is Outcome.DEGRADED:
                return channel, pattern
    return None


def _write(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    try:
        stale = read(path).files() - manifest.files()
    except GoldenError:
        stale = set()
    path.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(manifest), indent=1, sort_keys=True) + "\n"
    # A list of numbers belongs on one line, or nobody can review the rest.
    text = re.sub(r"\[[\d,\s]+\]", lambda found: re.sub(r"\s+", " ", found[0]), text)
    for name, data in {**files, MANIFEST: text.encode()}.items():
        handle, temporary = tempfile.mkstemp(dir=path, prefix=".")
        with os.fdopen(handle, "wb") as out:
            out.write(data)
        Path(temporary).chmod(0o644)
        os.replace(temporary, path / name)
    for name in stale:
        (path / name).unlink(missing_ok=True)


def comparison(expected: Image | None, actual: Image | None) -> Image:
    """Expected, actual and their difference side by side: what a person looks at when a golden file no longer fits.

    The difference is stretched to the full range. A missing image shows as grey.
    """
    shape = next((i.shape for i in (expected, actual) if i is not None), (64, 64, 3))
    grey = np.full(shape, 128, dtype=np.uint8)
    left, right = (grey if i is None else i for i in (expected, actual))
    height = max(left.shape[0], right.shape[0])
    if expected is not None and actual is not None and expected.shape == actual.shape:
        difference = np.abs(expected.astype(np.int16) - actual.astype(np.int16))
        gain = 255 / max(int(difference.max()), 1)
        third = np.rint(difference * gain).astype(np.uint8)
    else:
        third = grey
    gap = np.full((height, 8, 3), 255, dtype=np.uint8)
    padded = [np.pad(i, ((0, height - i.shape[0]), (0, 0), (0, 0)), constant_values=255) for i in (left, right, third)]
    return np.hstack([padded[0], gap, padded[1], gap, padded[2]])


def write_report(directory: Path, mismatches: Sequence[Mismatch], *, codec: str, device: str) -> Path:
    """Write one PNG for each mismatch with an image, and the HTML page that shows them all; returns the page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    directory.mkdir(parents=True, exist_ok=True)
    rows = []
    for mismatch in mismatches:
        data = None
        if mismatch.expected is not None or mismatch.actual is not None:
            data = png(comparison(mismatch.expected, mismatch.actual))
            picture(directory, mismatch).write_bytes(data)
        rows.append({"mismatch": mismatch, "data": base64.b64encode(data).decode() if data else None})
    environment = Environment(
        loader=PackageLoader("robustkit", "templates"), autoescape=True, undefined=StrictUndefined
    )
    page = directory / "index.html"
    page.write_text(
        environment.get_template("golden.html").render(rows=rows, codec=codec, device=device), encoding="utf-8"
    )
    return page


def picture(directory: Path, mismatch: Mismatch) -> Path:
    """Where :func:`write_report` puts a mismatch's picture."""
    return directory / f"{Path(mismatch.file).stem}.difference.png"


def png(image: Image) -> bytes:
    """``image`` (uint8, H x W x 3) as PNG."""
    from PIL import Image as Pillow

    out = io.BytesIO()
    Pillow.fromarray(image).save(out, "PNG", optimize=True)
    return out.getvalue()


def _expected(file: Path) -> Image | None:
    from PIL import Image as Pillow

    try:
        with Pillow.open(file, formats=["PNG"]) as opened:
            return np.asarray(opened.convert("RGB"))
    except Exception:  # Pillow's readers raise whatever the parts of a damaged file lead to
        return None


def _first_difference(expected: bytes, actual: bytes, coder: Coder) -> str:
    if len(expected) != len(actual):
        return f"is {len(expected)} bytes, the encoder now writes {len(actual)}"
    bits = np.unpackbits(np.frombuffer(expected, np.uint8) ^ np.frombuffer(actual, np.uint8))
    first = int(np.flatnonzero(bits)[0])
    region = coder.layout(expected).at(first)
    return f"differs from what the encoder now writes in {int(bits.sum())} bits, first bit {first}" + (
        f" ({region.name})" if region else ""
    )


def _file_name(value: Any) -> str:
    # A manifest comes with a checkout, and its names must not reach outside its folder.
    if not isinstance(value, str) or not value or value != Path(value).name or value.startswith(".") or "\0" in value:
        raise ValueError(f"{value!r} is not a plain file name")
    return value


def _reconstruction(data: Mapping[str, Any]) -> Reconstruction:
    file = data["file"]
    return Reconstruction(
        pattern=str(data["pattern"]),
        outcome=Outcome(data["outcome"]).value,
        file=None if file is None else _file_name(file),
        flips=tuple(_place(f) for f in data["flips"]),
        keep=None if data["keep"] is None else _place(data["keep"]),
        append=bytes.fromhex(data["append"]).hex(),
    )


def _place(value: Any) -> int:
    """A position in a stream, which NumPy can hold."""
    place = int(value)
    if not 0 <= place < 1 << 63:
        raise ValueError(f"{place} is no position in a stream")
    return place


def _size(image: Image) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
