"""The worker's side: load one codec, then encode and decode what the parent sends until it goes away."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import hashlib
import importlib
import inspect
import json
import math
import os
import resource
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

import numpy as np
import numpy.typing as npt

from robustkit.codec import Codec, DecodeError, DecoderFailed, EncodeError, Image, Layout
from robustkit.isolation import wire
from robustkit.isolation.hook import Around
from robustkit.isolation.limits import Busy, Usage, cap_address_space, is_out_of_memory, peak_bytes, resident
from robustkit.isolation.surroundings import Growth, Surroundings
from robustkit.outcome import Outcome
from robustkit.profile import Profile
from robustkit.registry import CodecSpec, CodecUnavailable, Target

#: Exit status of a worker whose decoder has cut its connection to the parent.
LOST_CONNECTION = 70

_LONGEST_TEXT = 2000
_MOST_WARNINGS = 20
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

#: What an operation may raise by contract; DecodeError where none is named.
_REFUSALS: dict[str, type[Exception]] = {"load": CodecUnavailable, "encode": EncodeError}

_DECODES = frozenset({"decode", "decode_batch"})

_Answer = tuple[Any, Sequence[bytes | Image]]


def main(connection: int, memory_file: int, parent: int) -> NoReturn:
    """Serve the parent on the inherited descriptors ``connection`` and ``memory_file``; never returns."""
    if sys.platform == "linux":
        # Orphans of what a decoder starts come to this process, so that they are found.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        # The kernel's word reaches even a process that loops in C with the interpreter's lock held.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)
    # Ctrl-C goes to every process of a terminal; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    for descriptor in (connection, memory_file):
        os.set_inheritable(descriptor, False)
    status = LOST_CONNECTION
    try:
        _Child(connection, memory_file).serve()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        # Whatever atexit, finalisers and threads the decoder has left behind would run on the way out of Python.
        os._exit(status)


class _Child:
    def __init__(self, connection: int, memory_file: int) -> None:
        self._socket = socket.socket(fileno=connection)
        self._file = memory_file
        self._inbox = wire.Inbox()
        self._surroundings: Surroundings | None = None
        self._codec: Codec
        self._hook: Around | None = None
        self._seconds = 0.0
        self._resident = 0
        self._growth, self._usage = Growth(0), Usage()
        self._operations: dict[str, Callable[[dict[str, Any]], _Answer]] = {
            "load": self._load,
            "encode": self._encode,
            "decode": self._decode,
            "decode_batch": self._decode_batch,
            "layout": self._layout,
            "describe": self._describe,
            "identify": self._identify,
            "hook": self._set_hook,
        }

    def serve(self) -> None:
        while (request := self._next()) is not None:
            self._socket.sendall(wire.pack(self._answer(request)))

    def _next(self) -> dict[str, Any] | None:
        while (message := self._inbox.take()) is None:
            data = self._socket.recv(1 << 16)
            if not data:
                return None
            self._inbox.feed(data)
        return message

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        operation = request["operation"]
        value: Any = None
        buffers: Sequence[bytes | Image] = ()
        failure: dict[str, str] | None = None
        exhausted = False
        watched = operation in _DECODES
        if watched:
            self._usage.begin()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            started, busy = time.perf_counter(), Busy()
            try:
                value, buffers = self._operations[operation](request)
                seconds = self._seconds or time.perf_counter() - started
            except BaseException as error:  # a decoder may raise anything, SystemExit and KeyboardInterrupt too
                seconds = time.perf_counter() - started
                refusal = _REFUSALS.get(operation, DecodeError)
                exhausted = is_out_of_memory(error, _text(error))
                if exhausted:
                    failure = _failure(Outcome.EXHAUSTED, _describe(error))
                elif isinstance(error, refusal):
                    failure = _failure(Outcome.REFUSED, _text(error))
                elif isinstance(error, DecoderFailed):
                    failure = _failure(error.outcome, _text(error))
                else:
                    failure = _failure(Outcome.RAISED, _describe(error))
        spent = busy.seconds()
        self._seconds = 0.0
        largest, now = self._usage.end() if watched else (0, 0)
        memory = max(0, largest - self._resident)
        spoilt = None
        if self._surroundings is not None:
            if self._surroundings.forked:
                os._exit(0)
            spoilt = self._surroundings.restore()
        if exhausted:
            spoilt = "ran out of memory"
        if spoilt is None and watched:
            spoilt = self._growth.after(len(request["lengths"]), now - sum([np.asarray(b).nbytes for b in buffers]))
        return {
            "id": request["id"],
            "value": value,
            "lengths": wire.write(self._file, buffers),
            "failure": failure,
            "seconds": seconds,
            "processor": spent,
            "memory": memory,
            "warnings": _warnings(caught),
            "spoilt": spoilt,
        }

    def _load(self, request: dict[str, Any]) -> _Answer:
        if (hook := request["hook"]) is not None:
            self._hook = getattr(importlib.import_module(hook["module"]), hook["attribute"])()
            self._hook.set(**hook["settings"])
        target = Target(request["module"], request["attribute"], request["file"])
        self._module = target.module
        self._codec = codec = CodecSpec(request["name"], target, request["settings"]).load()
        profile = getattr(codec, "profile", None)
        if profile is not None and not isinstance(profile, Profile):
            raise CodecUnavailable(f"codec {request['name']!r}: profile is a {_kind(profile)}, not a robustkit.Profile")
        device = _device(codec)
        # CUDA reserves far more address space than it uses; the parent watches the resident set in any case.
        if request["memory"] and device == "cpu":
            cap_address_space(request["memory"])
        self._resident = resident()
        self._growth = Growth(request["memory"] // 4)
        self._surroundings = Surroundings((0, 1, 2, self._socket.fileno(), self._file))
        return {
            "name": str(getattr(codec, "name", request["name"])),
            "family": str(getattr(codec, "family", "")),
            "known_defects": {str(k): str(v) for k, v in dict(getattr(codec, "known_defects", {})).items()},
            "device": device,
            "sources": _sources(target.module),
            "profile": None if profile is None else profile.to_mapping(),
            "tolerance": _tolerance(codec),
            "batched": getattr(type(codec), "decode_batch", Codec.decode_batch) is not Codec.decode_batch,
            "resident": self._resident,
            "peak": peak_bytes(resource.getrusage(resource.RUSAGE_SELF)),
        }, ()

    def _encode(self, request: dict[str, Any]) -> _Answer:
        shape = tuple(request["image"])
        size = math.prod(shape)
        image = wire.read_array(self._file, 0, size).reshape(shape)
        weights = None
        if request["weights"] is not None:
            shape = tuple(request["weights"])
            weights = wire.read_array(self._file, size, math.prod(shape)).reshape(shape)
        os.ftruncate(self._file, 0)
        if weights is None:
            stream = self._codec.encode(image)
        else:
            if "weights" not in inspect.signature(self._codec.encode).parameters:
                raise EncodeError("this codec takes no weights: leave them out")
            stream = self._codec.encode(image, weights=weights)  # type: ignore[call-arg]
        if not isinstance(stream, bytes):
            raise TypeError(f"encode returned a {_kind(stream)}, not bytes")
        return None, [stream]

    def _decode(self, request: dict[str, Any]) -> _Answer:
        (stream,) = self._streams(request)
        with self._around():
            started = time.perf_counter()
            decoded = self._codec.decode(stream)
            self._seconds = time.perf_counter() - started
        return self._results([decoded], request["shape"], batch=False)

    def _decode_batch(self, request: dict[str, Any]) -> _Answer:
        streams = self._streams(request)
        with self._around():
            started = time.perf_counter()
            decoded = self._codec.decode_batch(streams)
            self._seconds = time.perf_counter() - started
        results = _items(decoded)
        if results is None or len(results) != len(streams):
            size = f" of {len(results)}" if results is not None else ""
            wrong = f"decode_batch returned a {_kind(decoded)}{size}, not a list of {len(streams)}"
            return [_failure(Outcome.MISSHAPEN, wrong)], ()
        return self._results(results, request["shape"], batch=True)

    def _layout(self, request: dict[str, Any]) -> _Answer:
        (stream,) = self._streams(request)
        layout = self._codec.layout(stream)
        if not isinstance(layout, Layout):
            raise TypeError(f"layout returned a {_kind(layout)}, not a robustkit.Layout")
        rows = [[r.name, int(r.start), int(r.stop), bool(r.header)] for r in layout]
        return int(layout.bits), [json.dumps(rows).encode()]

    def _describe(self, request: dict[str, Any]) -> _Answer:
        describe = getattr(self._codec, "describe", dict)
        return {str(k): str(v)[:_LONGEST_TEXT] for k, v in dict(describe()).items()}, ()

    def _identify(self, request: dict[str, Any]) -> _Answer:
        from robustkit.isolation import identity

        return identity.parts(self._codec, self._module), ()

    def _set_hook(self, request: dict[str, Any]) -> _Answer:
        assert self._hook is not None
        if request["settings"] is not None:
            self._hook.set(**request["settings"])
        return self._hook.told(), ()

    def _around(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._hook is None else self._hook.around()

    def _streams(self, request: dict[str, Any]) -> list[bytes]:
        streams, offset = [], 0
        for length in request["lengths"]:
            streams.append(wire.read(self._file, offset, length))
            offset += length
        # A decoder that puts another file in this one's place must not have its stream taken for an image.
        os.ftruncate(self._file, 0)
        return streams

    def _results(self, decoded: Sequence[object], shape: list[int] | None, *, batch: bool) -> _Answer:
        results: list[dict[str, Any]] = []
        images = []
        for found in decoded:
            array = _array(found)
            if batch and _is(found, DecodeError):
                results.append(_failure(Outcome.REFUSED, _text(cast("DecodeError", found))))
            elif array is None:
                wrong = f"decode returned a {_kind(found)}, not a NumPy array: give uint8, height x width x 3"
                results.append(_failure(Outcome.MISSHAPEN, wrong))
            elif (wrong_array := _misshapen(array, shape)) is not None:
                results.append(_failure(Outcome.MISSHAPEN, wrong_array))
            else:
                image = np.ascontiguousarray(array)
                images.append(image)
                results.append({"size": [int(n) for n in image.shape[:2]]})
        return results, images


def _tolerance(codec: object) -> list[float]:
    """How far a codec's pixels may lie apart between machines, as it says.

    Raises:
        CodecUnavailable: it says something else.
    """
    said = getattr(codec, "tolerance", Codec.tolerance)
    try:
        maximum, mean = (float(part) for part in said)
    except (TypeError, ValueError):
        maximum = mean = -1.0
    if not 0 <= mean <= maximum <= 255:
        raise CodecUnavailable(f"tolerance = {said!r:.99}: give grey levels at worst and on average, such as (2, 0.05)")
    return [maximum, mean]


def _device(codec: object) -> str:
    """The device class that a loaded codec computes on, whatever its settings said: the one place that knows."""
    kind = str(getattr(codec, "device", "")).partition(":")[0]
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if kind == "cuda" or (cuda is not None and cuda.is_initialized()):
        return "cuda"
    return "cpu"


def _sources(module: str) -> str:
    """SHA-256 of the files of all loaded modules of the package of ``module``; of robustkit, the codecs' alone."""
    package = module.partition(".")[0]
    ours = ("robustkit.codecs", "robustkit.priors")
    prefixes = ours if package == "robustkit" else (package,)
    digest = hashlib.sha256()
    for name, found in sorted(sys.modules.items()):
        file = getattr(found, "__file__", None)
        if file is not None and any(name == p or name.startswith(f"{p}.") for p in prefixes):
            digest.update(name.encode(errors="replace"))
            with contextlib.suppress(OSError), open(file, "rb") as source:
                digest.update(hashlib.sha256(source.read()).digest())
    return digest.hexdigest()


def _array(found: object) -> npt.NDArray[Any] | None:
    """What ``found`` holds if it is an array, whatever its own class says of shape and dtype."""
    # Not isinstance, which asks the object itself for its class.
    return np.ndarray.view(cast("npt.NDArray[Any]", found), np.ndarray) if _is(found, np.ndarray) else None


def _items(found: object) -> list[object] | None:
    """What a list or tuple holds, whatever its own class says of its length."""
    if _is(found, list):
        return list.copy(cast("list[object]", found))
    return list(tuple.__getitem__(cast("tuple[object, ...]", found), slice(None))) if _is(found, tuple) else None


def _is(found: object, kind: type) -> bool:
    return kind in type.mro(type(found))


def _misshapen(found: npt.NDArray[Any], shape: list[int] | None) -> str | None:
    size = " x ".join(map(str, found.shape)) or "scalar"
    if found.dtype != np.uint8:
        finite = found.dtype.kind not in "fc" or bool(np.isfinite(found).all())
        return f"decode returned {found.dtype}, {size}{'' if finite else ', with non-finite values'}: give uint8"
    if found.ndim != 3 or found.shape[2] != 3 or 0 in found.shape:
        return f"decode returned uint8, {size}: give height x width x 3"
    if shape is not None and list(found.shape[:2]) != shape:
        return f"decode returned {size}, the image is {shape[0]} x {shape[1]} x 3"
    return None


def _failure(outcome: Outcome, message: str) -> dict[str, str]:
    return {"outcome": outcome.value, "message": message}


def _kind(found: object) -> str:
    return f"{type(found).__module__}.{type(found).__qualname__}".removeprefix("builtins.")[:_LONGEST_TEXT]


def _text(error: BaseException) -> str:
    try:
        return str(error)[:_LONGEST_TEXT]
    except BaseException as second:
        return f"(its text raised {type(second).__name__})"


def _describe(error: BaseException) -> str:
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f" ({os.path.basename(code.co_filename)}:{trace.tb_lineno} in {code.co_name})"
        trace = trace.tb_next
    text = _text(error)
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"


def _warnings(caught: list[warnings.WarningMessage] | None) -> list[str]:
    found = [w.message for w in caught or () if isinstance(w.message, Warning)]
    texts = dict.fromkeys(f"{type(w).__name__}: {_text(w)}" for w in found[: 50 * _MOST_WARNINGS])
    return list(texts)[:_MOST_WARNINGS]
