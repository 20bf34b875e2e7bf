"""Decoding in worker processes that may die: one codec, a time limit a decode, a memory cap, an outcome for everything.

Each worker is one interpreter of its own (as multiprocessing's "spawn" makes them) that loads the codec once. It is
joined to its parent by a socket pair for small JSON messages and an anonymous memory file for streams and images, so
nothing that a decoder returns or scribbles is ever unpickled, and no broken worker can reach another's connection.

A general process pool does not give that: pebble's (5.2, 0.8 ms over an in-process JPEG decode) and concurrent.futures'
workers share one result pipe and answer in pickles; a decoder that writes to a descriptor it does not own left such a
pool waiting for ever and took multiprocessing's fork server and resource tracker down with it.

POSIX only. Linux gives everything; elsewhere there is no resident-set watchdog, and a worker notices its parent's death
only between two decodes.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustkit.isolation.decoded import Decoded, fingerprint
    from robustkit.isolation.hook import ARITHMETIC, Hook
    from robustkit.isolation.limits import Limits
    from robustkit.isolation.start import WorkerError
    from robustkit.isolation.workers import Attributes, CodecWorkers
else:
    _MODULES = {
        "ARITHMETIC": "hook",
        "Attributes": "workers",
        "CodecWorkers": "workers",
        "Decoded": "decoded",
        "Hook": "hook",
        "Limits": "limits",
        "WorkerError": "start",
        "fingerprint": "decoded",
    }

    def __getattr__(name: str) -> object:
        # A worker imports this package for its own side alone; the parent's would make each start longer by a quarter.
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = found
        return found


__all__ = ["ARITHMETIC", "Attributes", "CodecWorkers", "Decoded", "Hook", "Limits", "WorkerError", "fingerprint"]
