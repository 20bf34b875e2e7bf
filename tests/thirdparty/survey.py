"""What damage does to real codecs. At the root of a checkout:

    python -m tests.thirdparty.survey [CODEC...]    decode damaged streams, and write down what came of them
    python -m tests.thirdparty.survey --table       the table in docs/real-codecs.md

It knows nothing of the suite's search, which is judged by it: every bit of the first 256 bytes is flipped alone,
streams are cut, and bits anywhere are flipped, all seeded. What gives an image is decoded again in a second process,
where fresh memory holds other bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from robustkit.images import photographs
from robustkit.isolation import CodecWorkers, Limits
from robustkit.outcome import Failure, Outcome
from robustkit.registry import CodecSpec, Target

from .codecs import CODECS

#: What was seen, by codec.
SEEN = Path(__file__).with_name("seen.json")
HEADER = 256
CUTS = 64
RANDOM = 256
LIMITS = Limits(seconds=3, memory=2**29)


def flipped(stream: bytes, bits: list[int]) -> bytes:
    """``stream`` with these bits turned over."""
    mask = np.zeros(8 * len(stream), np.uint8)
    mask[bits] = 1
    return (np.frombuffer(stream, np.uint8) ^ np.packbits(mask)).tobytes()


def damaged(stream: bytes) -> list[tuple[str, int, bytes]]:
    """Damaged streams, in a seeded order: the damage's kind, the bit where it is one, and the bytes."""
    generator = np.random.default_rng(0)
    found = [("flip", bit, flipped(stream, [bit])) for bit in range(8 * min(HEADER, len(stream)))]
    found += [("cut", -1, stream[:length]) for length in generator.integers(0, len(stream), CUTS)]
    for _ in range(RANDOM):
        bits = generator.integers(0, 8 * len(stream), int(2 ** generator.uniform(0, 6)))
        found.append(("random", -1, flipped(stream, bits)))
    return [found[i] for i in generator.permutation(len(found)) if found[i][2] != stream]


def survey(name: str, seconds: float) -> dict:
    """Decode damaged streams of one codec, a 64x64 crop, until they or the time are spent."""
    kind = CODECS[name]
    spec = CodecSpec(name, Target(kind.__module__, kind.__qualname__))
    image = next(iter(photographs(64).values()))
    shape = image.shape[:2]
    outcomes: Counter = Counter()
    failures: dict[str, dict] = {}
    tried: Counter = Counter()
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        pools = []
        for byte in ("85", "170"):
            os.environ["MALLOC_PERTURB_"] = byte
            pools.append(CodecWorkers(spec, limits=LIMITS, directory=folder))
        try:
            stream = pools[0].encode(image)
            clean = pools[0].decode(stream, shape=shape)
            assert clean.outcome is None, clean
            for what, bit, bad in damaged(stream):
                if time.monotonic() > end:
                    break
                first = pools[0].decode(bad, shape=shape)
                failure, outcome = first.failure, first.judged(clean.image)
                if first.outcome is None:
                    second = pools[1].decode(bad, shape=shape)
                    if second.judged(first.image) is not Outcome.INTACT:
                        failure, outcome = Failure(Outcome.UNSTABLE), Outcome.UNSTABLE
                tried[what] += 1
                outcomes[outcome.value] += 1
                if failure:
                    row = failures.setdefault(str(failure), {"flip": 0, "cut": 0, "random": 0, "bit": None})
                    row[what] += 1
                    if what == "flip" and (row["bit"] is None or bit < row["bit"]):
                        row["bit"] = bit
        finally:
            for pool in pools:
                pool.close()
    return {
        "version": kind.describe(object.__new__(kind))[kind.distribution],
        "tried": dict(tried),
        "outcomes": dict(outcomes),
        "failures": failures,
    }


def kind(failure: str) -> str:
    """A failure's outcome, with its signal where there is one."""
    signal = re.search(r"SIG[A-Z]+", failure)
    return failure.partition(":")[0] + (f" ({signal[0]})" if signal else "")


def table(seen: dict) -> str:
    """What was seen, as a table in Markdown: codecs with failures first."""
    rows = ["| codec | version | streams | that failed | one bit that does it |", "|---|---|---|---|---|"]
    for name, found in sorted(seen.items(), key=lambda item: (not item[1]["failures"], item[0])):
        counts: Counter = Counter()
        bits: dict[str, int] = {}
        for failure, row in found["failures"].items():
            counts[kind(failure)] += row["flip"] + row["cut"] + row["random"]
            if row["bit"] is not None:
                bits[kind(failure)] = min(row["bit"], bits.get(kind(failure), row["bit"]))
        failed = ", ".join(f"{count} {word}" for word, count in sorted(counts.items())) or "none"
        alone = ", ".join(f"{word}: {bit}" for word, bit in sorted(bits.items()))
        rows.append(f"| `{name}` | {found['version']} | {sum(found['tried'].values()):,} | {failed} | {alone} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codecs", nargs="*", default=sorted(CODECS))
    parser.add_argument("--seconds", type=float, default=300, help="for each codec (300)")
    parser.add_argument("--out", type=Path, default=SEEN)
    parser.add_argument("--table", action="store_true")
    chosen = parser.parse_args()
    seen = json.loads(chosen.out.read_text()) if chosen.out.exists() else {}
    if chosen.table:
        print(table(seen))
        return
    for name in chosen.codecs:
        if reason := CODECS[name].missing():
            print(f"{name}: {reason}", file=sys.stderr)
            continue
        seen[name] = survey(name, chosen.seconds)
        print(name, json.dumps(seen[name]["outcomes"]), flush=True)
        chosen.out.write_text(json.dumps(seen, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
