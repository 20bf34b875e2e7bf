"""A codec that is two programs: each decode is a process of its own, with a limit on time, memory and output."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image as PillowImage

from robustkit.codec import Codec, DecodeError, DecoderFailed, EncodeError, Image, Layout
from robustkit.codec_file import Commands
from robustkit.outcome import Outcome
from robustkit.pixels import check_image
from robustkit.profile import Profile
from robustkit.registry import load_codec

#: A file that a program writes may have this many bytes: a 16-megapixel image as TIFF, several times over.
LARGEST_FILE = 1 << 28
#: Last words of a program that are kept, in bytes.
_LAST_WORDS = 1000
#: A program that ended badly with this much of its memory limit used is taken to have run out of it.
_EXHAUSTED = 0.8

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

_PILLOW_FORMATS = {".png": "PNG", ".ppm": "PPM", ".bmp": "BMP", ".tif": "TIFF"}


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
        self._named_by = load_codec(self.commands.layout) if self.commands.layout else None
        self.profile = self.promised(None if profile is None else Profile.from_mapping(profile))

    @classmethod
    def changed_settings(cls, settings: Mapping[str, Any]) -> frozenset[str]:
        changed = super().changed_settings(settings)
        own = settings.get("commands", {}).get("quality")
        return changed - {"quality"} if settings.get("quality") == own else changed

    @classmethod
    def missing(cls, **settings: Any) -> str | None:
        """Programs that are not on the PATH."""
        commands = Commands(**settings["commands"])
        programs = dict.fromkeys((commands.encode[0], commands.decode[0]))
        absent = [program for program in programs if shutil.which(program) is None]
        if not absent:
            return None
        hint = f": {commands.install}" if commands.install else ""
        return f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not on the PATH{hint}"

    def encode(self, image: Image) -> bytes:
        if not check_image(image, EncodeError).size:
            raise EncodeError(f"{image.shape[1]}x{image.shape[0]}: an image has pixels")
        with tempfile.TemporaryDirectory(prefix="robustkit-") as folder:
            given, made = Path(folder, f"image{self.commands.image}"), Path(folder, f"stream{self.commands.stream}")
            PillowImage.fromarray(image).save(given, _PILLOW_FORMATS[self.commands.image])
            self._run(self.commands.encode, given, made, EncodeError)
            if not made.is_file():
                raise RuntimeError(f"{self.commands.encode[0]} ended well and wrote no {made.name}")
            return made.read_bytes()

    def decode(self, bitstream: bytes) -> Image:
        with tempfile.TemporaryDirectory(prefix="robustkit-") as folder:
            given, made = Path(folder, f"stream{self.commands.stream}"), Path(folder, f"image{self.commands.decoded}")
            given.write_bytes(bitstream)
            self._run(self.commands.decode, given, made, DecodeError)
            try:
                with PillowImage.open(made, formats=[_PILLOW_FORMATS[self.commands.decoded]]) as opened:
                    if opened.mode not in ("RGB", "RGBA", "L", "P"):
                        raise DecoderFailed(Outcome.MISSHAPEN, f"wrote a {opened.mode} image: 8-bit RGB is wanted")
                    return np.array(opened.convert("RGB"), dtype=np.uint8)
            except (OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError) as error:
                program = self.commands.decode[0]
                raise DecoderFailed(Outcome.MISSHAPEN, f"{program} ended well and left no image: {error}") from error

    def layout(self, bitstream: bytes) -> Layout:
        """As the codec that the file names has it; without one the whole stream is payload."""
        return super().layout(bitstream) if self._named_by is None else self._named_by.layout(bitstream)

    def _run(self, command: Sequence[str], given: Path, made: Path, refusal: type[ValueError]) -> None:
        """Run one program to its end.

        Raises:
            refusal: an exit status that the file calls a refusal.
            DecoderFailed: it crashed, hung, ran out of memory, or ended with any other status.
        """
        values = {"{input}": str(given), "{output}": str(made), "{quality}": f"{self.commands.quality}"}
        words = [_filled(word, values) for word in command]
        with tempfile.TemporaryFile() as words_file:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=words_file,
                stderr=subprocess.STDOUT,
                cwd=given.parent,
                preexec_fn=self._limit,
            )
            status, peak = _wait(process, self.commands.seconds)
            words_file.seek(max(0, words_file.seek(0, os.SEEK_END) - _LAST_WORDS))
            said = words_file.read().decode(errors="replace").strip()
        program = Path(command[0]).name
        if status is None:
            raise DecoderFailed(Outcome.HUNG, f"{program} ran for more than {self.commands.seconds:g} s")
        if status == 0:
            return
        if self.commands.memory and peak > _EXHAUSTED * self.commands.memory:
            raise DecoderFailed(
                Outcome.EXHAUSTED, f"{program} used {peak >> 20} MiB of {self.commands.memory >> 20}: {said}"
            )
        if status > 0 and status in self.commands.refused:
            raise refusal(said or f"{program} ended with status {status}")
        if status < 0:
            raise DecoderFailed(Outcome.CRASHED, f"{program}: {_signal(-status)} {said}".rstrip())
        raise DecoderFailed(Outcome.RAISED, f"{program} ended with status {status}, which is no refusal: {said}")

    def _limit(self) -> None:
        """What the program may use; runs in its process before it starts."""
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # with its worker, whoever ends that
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
        if self.commands.memory:
            hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            memory = self.commands.memory if hard == resource.RLIM_INFINITY else min(self.commands.memory, hard)
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    def describe(self) -> Mapping[str, str]:
        """The command lines, and what the programs say of their versions."""
        facts = {}
        if self.commands.version:
            try:
                told = subprocess.run(self.commands.version, capture_output=True, text=True, timeout=10, check=False)
                lines = (told.stdout or told.stderr).strip().splitlines()
                facts[Path(self.commands.version[0]).name] = lines[0].strip() if lines else "says nothing"
            except (OSError, subprocess.SubprocessError, UnicodeDecodeError) as error:
                facts[Path(self.commands.version[0]).name] = f"unknown ({error})"
        quality = {"quality": f"{self.commands.quality}"} if self.commands.quality != "" else {}
        return {**facts, "encode": " ".join(self.commands.encode), "decode": " ".join(self.commands.decode), **quality}


def _filled(word: str, values: Mapping[str, str]) -> str:
    for place, value in values.items():
        word = word.replace(place, value)
    return word


def _wait(process: subprocess.Popen[bytes], seconds: float) -> tuple[int | None, int]:
    """Exit status (minus the signal) and peak resident set in bytes; status ``None`` after ``seconds``, and a kill."""
    deadline, pause, hung = time.monotonic() + seconds, 0.0005, False
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        if time.monotonic() >= deadline and not hung:
            hung = True
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        time.sleep(pause)
        pause = min(2 * pause, 0.01)
    process.returncode = os.waitstatus_to_exitcode(status)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return None if hung else process.returncode, peak


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
