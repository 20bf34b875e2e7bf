"""A codec that is two programs: each decode is a process of its own, with a limit on time, memory and output."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import stat
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from PIL import Image as PillowImage

from robustkit.codec import TIME_LIMIT, Codec, DecodeError, DecoderFailed, EncodeError, Image, Layout
from robustkit.codec_file import Commands, is_script
from robustkit.codecs.programs import Ended, ProgramError, Programs
from robustkit.outcome import Outcome
from robustkit.pixels import check_image
from robustkit.profile import Profile
from robustkit.registry import load_codec

#: A file that a program writes may have this many bytes: a 16-megapixel image as TIFF, several times over.
LARGEST_FILE = 1 << 28
#: Last words of a program that are kept, in characters.
_LAST_WORDS = 1000
#: A program that ended badly with this much of its memory limit used is taken to have run out of it.
_EXHAUSTED = 0.8
#: A run that will be given up by its parent is ended this much earlier, in seconds, so that it can say why.
_EARLIER = 1.0
#: Longest that a program may take to tell its version, in seconds.
_VERSION_SECONDS = 10.0

_PILLOW_FORMATS = {".png": "PNG", ".ppm": "PPM", ".bmp": "BMP", ".tif": "TIFF"}

# What a program says that ends by no decision of its own, whatever its exit status. Python, Java and a program built
# with a sanitizer end with 1 then, as many end that refuse.
_SANITIZER = re.compile(
    r"^=*\d*=*\s*(?:ERROR|WARNING): (?:Address|Leak|Memory|Thread|HWAddress)Sanitizer", re.MULTILINE
)
_UNCAUGHT = re.compile(
    r"^Traceback \(most recent call last\):|^Exception in thread |^thread '.*panicked at|^panic: ", re.MULTILINE
)
_NO_MEMORY = re.compile(
    r"^(?:\w+\.)*_?(?:Array)?MemoryError\b|std::bad_alloc|java\.lang\.OutOfMemoryError", re.MULTILINE
)
_TOO_LARGE = re.compile(r"\bEFBIG\b|File too large")
#: Signals that a shell or ``timeout`` reports of the program below it, as 128 and the signal's number.
_FATAL = {128 + number: number for number in (
    signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGKILL, signal.SIGSEGV,
    signal.SIGXCPU, signal.SIGXFSZ, signal.SIGSYS,
)}  # fmt: skip
#: Exit status of ``timeout`` whose time was up.
_TIMEOUT = 124


class Tried(NamedTuple):
    """What became of one run of the decoding program.

    Attributes:
        ended: how it ended.
        size: height and width of the image that it left; ``None`` for no image.
        outcome: that the codec's file makes of it, ``None`` for an image.
        message: why.
    """

    ended: Ended
    size: tuple[int, int] | None
    outcome: Outcome | None
    message: str


class CommandLine(Codec):
    """A codec that is an encoding and a decoding program.

    Args:
        commands: the fields of :class:`robustkit.codec_file.Commands`.
        profile: what the codec promises, as :meth:`Profile.from_mapping` reads it.
        quality: in place of the file's.
    """

    name: str  # type: ignore[misc]
    family: str  # type: ignore[misc]
    #: They are the codec. Its promises are of the file's quality.
    neutral_settings: ClassVar[frozenset[str]] = frozenset({"commands", "profile"})

    def __init__(
        self,
        *,
        commands: Mapping[str, Any],
        profile: Mapping[str, Any] | None = None,
        quality: float | str | None = None,
    ) -> None:
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in commands.items()}
        self.commands = Commands(**given if quality is None else {**given, "quality": quality})
        self.name, self.family = self.commands.name, self.commands.family
        self._programs = Programs()
        self._named_by = load_codec(self.commands.layout) if self.commands.layout else None
        self.profile = self.promised(None if profile is None else Profile.from_mapping(profile))

    @classmethod
    def changed_settings(cls, settings: Mapping[str, Any]) -> frozenset[str]:
        changed = super().changed_settings(settings)
        own = settings.get("commands", {}).get("quality")
        return changed - {"quality"} if settings.get("quality") == own else changed

    @classmethod
    def missing(cls, **settings: Any) -> str | None:
        """Programs and scripts that are not there."""
        commands = Commands(**settings["commands"])
        words = dict.fromkeys(
            word for command in (commands.encode, commands.decode) for word in (command[0], *filter(_is_file, command))
        )
        absent = [word for word in words if os.sep not in word and shutil.which(word) is None]
        said = [f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not on the PATH"] if absent else []
        for word in (word for word in words if os.sep in word):
            if not os.path.isfile(word):
                said.append(f"{word} is not there")
            elif word in (commands.encode[0], commands.decode[0]) and not os.access(word, os.X_OK):
                said.append(f"{word} is no program: chmod +x {word}")
        hint = f": {commands.install}" if commands.install else ""
        return f"{', '.join(said)}{hint}" if said else None

    def encode(self, image: Image) -> bytes:
        if not check_image(image, EncodeError).size:
            raise EncodeError(f"{image.shape[1]}x{image.shape[0]}: an image has pixels")
        with _folder() as folder:
            given, made = (
                folder / "work" / f"image{self.commands.image}",
                folder / "work" / f"stream{self.commands.stream}",
            )
            PillowImage.fromarray(image).save(given, _PILLOW_FORMATS[self.commands.image])
            ended = self._run(self.commands.encode, given, made)
            if ended.status != 0:
                raise self._failure(self.commands.encode, ended, made, EncodeError)
            try:
                return _read(made)
            except DecoderFailed as error:
                raise DecoderFailed(error.outcome, f"{self.commands.encode[0]} ended well and {error}") from None

    def decode(self, bitstream: bytes) -> Image:
        image, ended = self._decode(bitstream)
        if isinstance(image, Exception):
            raise image
        program = Path(self.commands.decode[0]).name
        if ended.status:
            said = f": {_last_words(ended)}" if ended.tail.strip() else ""
            warnings.warn(f"{program} left an image and ended with status {ended.status}{said}", stacklevel=2)
        if ended.left:
            warnings.warn(f"{program} left {ended.left} of its processes running: they were ended", stacklevel=2)
        return image

    def try_decode(self, bitstream: bytes) -> Tried:
        """Decode, and say what the program did rather than raise it."""
        image, ended = self._decode(bitstream, always=True)
        if not isinstance(image, Exception):
            verdict = self._verdict(ended, None)
            outcome, message = (None, "") if verdict is None else _outcome(verdict)
            return Tried(ended, (image.shape[0], image.shape[1]), outcome, message)
        return Tried(ended, None, *_outcome(image))

    def _decode(self, bitstream: bytes, *, always: bool = False) -> tuple[Image | Exception, Ended]:
        """The image that the program left, or what is to be raised.

        Args:
            always: look for an image whatever the exit status.
        """
        with _folder() as folder:
            given = folder / "work" / f"stream{self.commands.stream}"
            made = folder / "work" / f"image{self.commands.decoded}"
            given.write_bytes(bitstream)
            ended = self._run(self.commands.decode, given, made)
            failure = self._verdict(ended, made)
            if failure is not None and not always:
                return failure, ended
            try:
                kind = _PILLOW_FORMATS[self.commands.decoded]
                return _image(made, kind, reduce_depth=self.commands.reduce_depth), ended
            except DecoderFailed as error:
                if failure is not None:
                    return failure, ended
                program, well = (
                    Path(self.commands.decode[0]).name,
                    "well" if not ended.status else f"with {ended.status}",
                )
                return DecoderFailed(error.outcome, f"{program} ended {well} and {error}"), ended

    def _verdict(self, ended: Ended, made: Path | None) -> Exception | None:
        """What the decoding program's end is raised as, ``None`` where its image counts."""
        status = ended.status
        if status == 0:
            return None
        # A status that is both says that an image is kept, if there is one.
        kept = made is None or not self._refuses(status) or os.path.lexists(made)
        if status in self.commands.image_statuses and kept and not _cries(ended):
            return None
        return self._failure(self.commands.decode, ended, made, DecodeError)

    def _refuses(self, status: int | None) -> bool:
        refused = self.commands.refused
        if status is None or status <= 0:
            return False
        if refused == "any":
            return status not in _FATAL
        return status in refused

    def layout(self, bitstream: bytes) -> Layout:
        """As the codec that the file names has it; without one the whole stream is payload."""
        return super().layout(bitstream) if self._named_by is None else self._named_by.layout(bitstream)

    def _run(self, command: Sequence[str], given: Path, made: Path) -> Ended:
        """Run one program to its end.

        Raises:
            DecoderFailed: it can't be started.
        """
        values = {"{input}": str(given), "{output}": str(made), "{quality}": f"{self.commands.quality}"}
        words = [_filled(word, values) for word in command]
        seconds, memory = min(self.commands.seconds, _outer_limit()[0]), self.commands.memory
        folder = str(given.parent.parent)
        try:
            return self._programs.run(words, folder, seconds=seconds, memory=memory, largest=LARGEST_FILE)
        except ProgramError as error:
            raise DecoderFailed(Outcome.RAISED, f"{Path(command[0]).name}: {error}") from error

    def _failure(self, command: Sequence[str], ended: Ended, made: Path | None, refusal: type[ValueError]) -> Exception:
        """What a program's end is raised as: a refusal, or the failure that it is."""
        program, status, said = Path(command[0]).name, ended.status, _last_words(ended)
        if status is None:
            return DecoderFailed(Outcome.HUNG, f"{program} {self._time_was_up()}")
        fatal = -status if status < 0 else 0
        if not fatal and not self._listed(status):
            fatal = _FATAL.get(status, 0)
        if fatal == signal.SIGXFSZ or _TOO_LARGE.search(ended.tail) or (made and _size(made) >= LARGEST_FILE):
            return DecoderFailed(Outcome.EXHAUSTED, f"{program} wrote more than {LARGEST_FILE >> 20} MiB: {said}")
        memory = self.commands.memory
        if memory and ended.peak > _EXHAUSTED * memory:
            return DecoderFailed(Outcome.EXHAUSTED, f"{program} used {ended.peak >> 20} MiB of {memory >> 20}: {said}")
        if _SANITIZER.search(ended.tail) or _SANITIZER.search(ended.head):
            return DecoderFailed(Outcome.CRASHED, f"{program}: {said}")
        if (fatal or _cries(ended)) and _NO_MEMORY.search(ended.tail):
            return DecoderFailed(Outcome.EXHAUSTED, f"{program}: {said}")
        if fatal:
            below = "" if status < 0 else f" below it (status {status})"
            return DecoderFailed(Outcome.CRASHED, f"{program}: {signal_name(fatal)}{below} {said}".rstrip())
        if program == "timeout" and status == _TIMEOUT and not self._listed(status):
            return DecoderFailed(Outcome.HUNG, f"{' '.join(command[:2])} ended it {said}".rstrip())
        if _cries(ended):
            return DecoderFailed(Outcome.RAISED, f"{program} ended with status {status}, by an exception: {said}")
        if self._refuses(status):
            return refusal(said or f"{program} ended with status {status}")
        return DecoderFailed(Outcome.RAISED, f"{program} ended with status {status}, which is no refusal: {said}")

    def _listed(self, status: int) -> bool:
        """Whether the codec's file names an exit status itself."""
        return status in self.commands.image_statuses or (self.commands.refused != "any" and self._refuses(status))

    def _time_was_up(self) -> str:
        """Whose limit ended a program, and how to have another."""
        ours, (theirs, whole) = self.commands.seconds, _outer_limit()
        if theirs < ours:
            return (
                f"was ended after {theirs:g} s: the time limit of this run is {whole:g} s, although the codec allows"
                f" seconds = {ours:g}; raise --robustkit-time-limit, or --time-limit of a command"
            )
        return f"ran for more than {ours:g} s, which is what the codec allows it: seconds = {ours:g}"

    def describe(self) -> Mapping[str, str]:
        """The command lines, and what the programs say of their versions."""
        facts = {}
        if self.commands.version:
            facts[Path(self.commands.version[0]).name] = self._version()
        quality = {"quality": f"{self.commands.quality}"} if self.commands.quality != "" else {}
        return {**facts, "encode": " ".join(self.commands.encode), "decode": " ".join(self.commands.decode), **quality}

    def _version(self) -> str:
        with _folder() as folder:
            try:
                told = self._programs.run(
                    self.commands.version, str(folder), seconds=_VERSION_SECONDS, largest=LARGEST_FILE
                )
            except ProgramError as error:
                return f"unknown ({error})"
        if told.status is None:
            return f"unknown (no answer in {_VERSION_SECONDS:g} s)"
        return next((line.strip() for line in told.head.splitlines() if line.strip()), "says nothing")


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder for one run, removed whatever the program has done to it."""
    with tempfile.TemporaryDirectory(prefix="robustkit-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "work").mkdir()
        yield folder


def _outer_limit() -> tuple[float, float]:
    """When to end a program lest this whole process be given up, and when that would be, in seconds."""
    try:
        whole = float(os.environ[TIME_LIMIT])
    except (KeyError, ValueError):
        return float("inf"), float("inf")
    return max(whole - _EARLIER, 0.75 * whole), whole


def _read(path: Path) -> bytes:
    """The bytes of a file that a program wrote.

    Raises:
        DecoderFailed: it is not there, no regular file, or too large; the message ends "the program ended well and".
    """
    try:
        # A pipe would not open before somebody writes, and opening a device may do anything.
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise DecoderFailed(Outcome.MISSHAPEN, f"left {_kind(mode)} where {path.name} belongs")
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise DecoderFailed(Outcome.MISSHAPEN, f"left {_kind(found.st_mode)} where {path.name} belongs")
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise DecoderFailed(Outcome.MISSHAPEN, f"left no {path.name}: {error.strerror}") from error
    if len(data) > LARGEST_FILE:
        raise DecoderFailed(Outcome.EXHAUSTED, f"left more than {LARGEST_FILE >> 20} MiB")
    return data


def _image(path: Path, kind: str, *, reduce_depth: bool) -> Image:
    """The image that a program wrote.

    Raises:
        DecoderFailed: there is none, or one that is not 8-bit; the message ends "the program ended well and".
    """
    data = _read(path)
    try:
        with PillowImage.open(io.BytesIO(data), formats=[kind]) as opened:
            if opened.mode not in ("RGB", "RGBA", "L", "P"):
                raise DecoderFailed(Outcome.MISSHAPEN, f"wrote a {opened.mode} image: 8-bit RGB is wanted")
            if not reduce_depth and _is_deep(opened):
                raise DecoderFailed(Outcome.MISSHAPEN, "wrote an image of 16 bits a sample: 8-bit RGB is wanted")
            return np.array(opened.convert("RGB"), dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError) as error:
        # Pillow names the buffer's place in memory.
        why = "its file is no such image" if "cannot identify" in str(error) else error
        raise DecoderFailed(Outcome.MISSHAPEN, f"left no image: {why}") from error


def _is_deep(opened: PillowImage.Image) -> bool:
    """Whether Pillow would drop the lower bits of an image of 16 bits a sample."""
    for tile in getattr(opened, "tile", []):
        deepest = tile[3][1] if tile[0] == "ppm" and isinstance(tile[3], tuple) else 0
        if ";16" in str(tile[3]) or (isinstance(deepest, int) and deepest > 255):
            return True
    return False


def _kind(mode: int) -> str:
    for test, name in ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket")):
        if test(mode):
            return name
    return "a device"


def _size(path: Path) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def _is_file(word: str) -> bool:
    return os.path.isabs(word) and is_script(word)


def _cries(ended: Ended) -> bool:
    """Whether a program says that it ended by an error that nobody caught."""
    return any(cry.search(text) for cry in (_UNCAUGHT, _SANITIZER) for text in (ended.head, ended.tail))


def _last_words(ended: Ended) -> str:
    return ended.tail[-_LAST_WORDS:].strip()


def _outcome(error: Exception) -> tuple[Outcome, str]:
    return (error.outcome if isinstance(error, DecoderFailed) else Outcome.REFUSED), str(error)


def _filled(word: str, values: Mapping[str, str]) -> str:
    for place, value in values.items():
        word = word.replace(place, value)
    return word


def signal_name(number: int) -> str:
    """A signal as the kernel's headers call it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
