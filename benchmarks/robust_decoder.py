"""What the order-aware decoder wins back: loss on photographs, atoms repaired, against the plain decoder.

Run it with ``python benchmarks/robust_decoder.py``. Both decoders get the same damaged streams, so that their
difference is measured far more closely than either loss.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence

import click
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from robustkit import DecodeError, Image, channels
from robustkit.codecs.rcc import ordered
from robustkit.codecs.rcc.container import HEADER_BYTES
from robustkit.codecs.rcc.protocol import BitProtocol, HashOrderedIndices, IndependentIndices, Integers
from robustkit.codecs.rcc.turbo import DECODERS, RobustTurboDDCM, RobustTurboDDCMUEP, _payload, _protocol
from robustkit.images import photographs
from robustkit.quality import measure
from robustkit.statistics import Bound, mean_bound

CHANNELS = ("bsc(ber=0.0001)", "bsc(ber=0.001)", "bsc(ber=0.01)", "bsc(ber=0.02)", "burst(length=64)")
#: Where a third of the loss must be won back, and where nothing may be lost.
WIN_AT, BAR_WON = "bsc(ber=0.01)", 1 / 3
NO_LOSS_AT = CHANNELS[:2]
#: Of robust-turbo-ddcm as it comes, in dB: clean at least, and the losses at BER 1e-3 that each decoder may have.
BAR_CLEAN, AS_PUBLISHED_AT, BAR_LOSS = 28.4, "bsc(ber=0.001)", {"plain": 1.5, "ordered": 0.25}
#: Of robust-turbo-ddcm-uep: clean at least, and the losses that it may have.
BAR_UEP_CLEAN, BAR_UEP = 29.15, {"bsc(ber=0.001)": 0.2, "bsc(ber=0.01)": 1.5}
#: A mean this far below nothing is rounding, in dB.
ROUNDING = 0.005
#: A burst hits one step or two, and much depends on which: more trials.
BURST, BAR_BURST, BURST_TRIALS = "burst(length=64)", 0.5, 4
#: Steps of random atoms, K and M of a step, and bit error rates that the orders are compared by.
STEPS, SIZES, RATES = 100, ((1 << 18, 50), (1 << 14, 80)), (1e-3, 1e-2, 2e-2)

# Wide where nobody watches, so that a table in a log is whole.
console = Console(width=None if sys.stdout.isatty() else 150)
#: Of an image's trials, by image and decoder.
Losses = Mapping[str, npt.NDArray[np.float64]]


class Comparison:
    """The decoders beside one another, for one share of protected steps."""

    def __init__(self, images: Mapping[str, Image], protect: float, interleave: bool) -> None:
        self.images = images
        self.codecs = {
            decoder: RobustTurboDDCM(protect=protect, interleave=interleave, decoder=decoder) for decoder in DECODERS
        }
        self.streams = {name: self.codecs["plain"].encode(image) for name, image in images.items()}
        self.clean = {name: self._qualities(name, "plain", [stream])[0] for name, stream in self.streams.items()}

    def _qualities(self, image: str, decoder: str, streams: list[bytes]) -> npt.NDArray[np.float64]:
        found = []
        for decoded in self.codecs[decoder].decode_batch(streams):
            if isinstance(decoded, DecodeError):
                raise decoded
            found.append(measure("psnr", self.images[image], decoded))
        return np.array(found)

    def losses(self, channel: str, trials: int) -> tuple[Mapping[str, Losses], npt.NDArray[np.int64]]:
        """Loss in dB by decoder and image, and what became of the atoms (:func:`fates`)."""
        found: dict[str, dict[str, npt.NDArray[np.float64]]] = {name: {} for name in DECODERS}
        atoms = np.zeros(4, dtype=np.int64)
        noise, codec = channels.parse(channel), self.codecs["plain"]
        for image, stream in self.streams.items():
            damaged = [
                noise.draw(8 * len(stream), codec=codec.name, image=image, trial=number).apply(stream)
                for number in range(trials)
            ]
            for decoder in DECODERS:
                found[decoder][image] = self.clean[image] - self._qualities(image, decoder, damaged)
            sent = self._read(stream)
            atoms += sum((fates(self._protocol(stream), sent, self._read(hit))[0] for hit in damaged), start=0)
        return found, atoms

    def _protocol(self, stream: bytes) -> BitProtocol:
        return _protocol(self.codecs["plain"]._parse(stream)[0])

    def _read(self, stream: bytes) -> tuple[Integers, Integers]:
        return _payload(self.codecs["plain"]._parse(stream)[0]).read(stream[HEADER_BYTES:])


def held(comparison: Comparison, lost: Mapping[str, Mapping[str, Losses]]) -> Iterator[tuple[str, str, str, bool]]:
    """What both codecs have to show: what it is, the value, the bar, and whether it is met.

    Args:
        comparison: of robust-turbo-ddcm as it comes.
        lost: by channel, the losses of both decoders. Every stream gave an image.
    """
    clean = float(np.mean(list(comparison.clean.values())))
    yield "robust-turbo-ddcm, clean", f"{clean:.2f} dB", f"at least {BAR_CLEAN} dB", clean >= BAR_CLEAN
    for decoder, most in BAR_LOSS.items():
        if AS_PUBLISHED_AT in lost:
            loss = mean_bound(lost[AS_PUBLISHED_AT][decoder]).estimate
            what = f"robust-turbo-ddcm, {decoder}, loss after {AS_PUBLISHED_AT}"
            yield what, f"{loss:.2f} dB", f"at most {most} dB", loss <= most


def protected(images: Mapping[str, Image], trials: int, chosen: Sequence[str]) -> Iterator[tuple[str, str, str, bool]]:
    """The same of robust-turbo-ddcm-uep."""
    codec = RobustTurboDDCMUEP()
    streams = {name: codec.encode(image) for name, image in images.items()}
    clean = {name: measure("psnr", image, codec.decode(streams[name])) for name, image in images.items()}
    mean = float(np.mean(list(clean.values())))
    yield f"{codec.name}, clean", f"{mean:.2f} dB", f"at least {BAR_UEP_CLEAN} dB", mean >= BAR_UEP_CLEAN
    for channel in (channel for channel in BAR_UEP if channel in chosen):
        noise, losses = channels.parse(channel), []
        for name, stream in streams.items():
            drawn = (noise.draw(8 * len(stream), codec=codec.name, image=name, trial=n) for n in range(trials))
            for decoded in codec.decode_batch([pattern.apply(stream) for pattern in drawn]):
                if isinstance(decoded, DecodeError):
                    raise decoded
                losses.append(clean[name] - measure("psnr", images[name], decoded))
        loss, most = float(np.mean(losses)), BAR_UEP[channel]
        yield f"{codec.name}, loss after {channel}", f"{loss:.2f} dB", f"at most {most} dB", loss <= most


def fates(
    protocol: BitProtocol, sent: tuple[Integers, Integers], received: tuple[Integers, Integers]
) -> tuple[npt.NDArray[np.int64], float]:
    """Atoms that arrived wrong, and of these those repaired, and left out; then right ones no longer believed.

    And the share that repair removes of the squared error of a step's noise, as for orthogonal atoms.
    """
    indices, weights = ordered.believe(protocol, *received)
    wrong = (received[0] != sent[0]) | (received[1] != sent[1])
    right, believed = (indices == sent[0]) & (np.sign(weights) == sent[1]), np.abs(weights) > 0.5
    counts = (wrong, wrong & right & believed, wrong & ~believed, ~wrong & ~(right & believed))
    same = np.where(indices == sent[0], weights * sent[1], 0).sum(axis=1)
    correlation = same / np.sqrt((weights**2).sum(axis=1) * protocol.count)
    plain = (received[0] == sent[0]) * received[1] * sent[1]
    won = 1 - np.mean(1 - correlation) / max(1e-12, 1 - plain.mean())
    return np.array([part.sum() for part in counts]), float(won)


def orders() -> Table:
    """Random atoms through a binary symmetric channel: the indices' own order against the hash's."""
    table = Table(title=f"atoms in two orders, {STEPS} steps; the noise's squared error against the plain decoder's")
    for column in ("order", "K", "M", "BER", "wrong atoms", "squared error removed"):
        table.add_column(column)
    for kind in (IndependentIndices, HashOrderedIndices):
        for size, count in SIZES:
            protocol = kind(size, count)
            for rate in RATES:
                rng = np.random.default_rng(0)
                drawn = np.stack([rng.choice(size, count, replace=False) for _ in range(STEPS)])
                words = 2 * drawn + rng.integers(0, 2, drawn.shape)
                words = np.take_along_axis(words, protocol.keys(words).argsort(axis=1), axis=1)
                bits = protocol.index_bits + 1
                hit = words ^ ((rng.random((*words.shape, bits)) < rate) @ (1 << np.arange(bits)))
                sent, received = ((w >> 1, 1 - 2 * (w & 1)) for w in (words, hit))
                atoms, won = fates(protocol, sent, received)
                table.add_row(kind.__name__, str(size), str(count), f"{rate:g}", told(atoms), f"{won:.0%}")
    return table


def told(atoms: npt.NDArray[np.int64]) -> str:
    wrong, repaired, left, harmed = atoms
    shares = f"{repaired / max(1, wrong):.0%} repaired, {left / max(1, wrong):.0%} left out"
    return f"{wrong}: {shares}; {harmed} harmed"


def interval(bound: Bound) -> str:
    return f"{bound.estimate:.2f} [{bound.low:.2f}, {bound.high:.2f}]"


@click.command()
@click.option("--trials", default=4, show_default=True, help="Of each channel and photograph.")
@click.option("--crop", default=256, show_default=True, help="Side of the photographs, in pixels.")
@click.option("--protect", "shares", type=float, multiple=True, default=(0.0, 0.4), show_default=True)
@click.option("--interleave", is_flag=True, help="Interleave the unprotected steps.")
@click.option("--channel", "chosen", multiple=True, default=CHANNELS, help="Instead of all of them.")
def main(trials: int, crop: int, shares: tuple[float, ...], interleave: bool, chosen: tuple[str, ...]) -> None:
    """Print a table for each share of protected steps; exit with 1 where a bar is missed."""
    images = photographs(crop=crop)
    missed = 0
    shown = Table(
        title=f"what both codecs have to show, {len(images)} photographs, {trials} trials each; all gave images"
    )
    for column in ("", "measured", "bar", ""):
        shown.add_column(column)

    def judged(bar: str, kept: bool) -> tuple[str, str]:
        nonlocal missed
        missed += not kept
        return bar, "yes" if kept else "[red]NO[/red]"

    console.print(orders())
    for share in shares:
        with console.status("encoding") as status:
            comparison = Comparison(images, share, interleave)
            clean = float(np.mean(list(comparison.clean.values())))
            table = Table(
                title=f"robust-turbo-ddcm, protect={share:g}, interleave={interleave}: {clean:.2f} dB clean; loss in "
                f"dB and 95% intervals, {len(images)} photographs of {crop}x{crop}, {trials} trials each"
            )
            for column in ("channel", "plain", "ordered", "won back", "worst", "share", "wrong atoms", "bar", ""):
                table.add_column(column)
            lost: dict[str, Mapping[str, Losses]] = {}
            for channel in chosen:
                status.update(channel)
                losses, atoms = comparison.losses(channel, trials * (BURST_TRIALS if channel == BURST else 1))
                lost[channel] = losses
                plain, best = (mean_bound(losses[decoder], two_sided=True) for decoder in ("plain", "ordered"))
                gains = {image: loss - losses["ordered"][image] for image, loss in losses["plain"].items()}
                won = mean_bound(gains, two_sided=True)
                bar = ("", "")
                if channel == WIN_AT:
                    bar = judged(f"at least {BAR_WON:.0%}", won.low >= BAR_WON * plain.estimate)
                elif channel in NO_LOSS_AT:
                    bar = judged("nothing lost", won.estimate >= -ROUNDING)
                elif channel == BURST:
                    bar = judged(f"at most {BAR_BURST} dB", best.high <= BAR_BURST)
                table.add_row(
                    channel,
                    *map(interval, (plain, best, won)),
                    f"{min(gain.min() for gain in gains.values()):.2f}",
                    f"{won.estimate / plain.estimate:.0%}" if plain.estimate > ROUNDING else "",
                    told(atoms),
                    *bar,
                )
        console.print(table)
        if share == 0 and not interleave:
            with console.status("robust-turbo-ddcm-uep"):
                for what, value, bar, kept in (*held(comparison, lost), *protected(images, trials, chosen)):
                    shown.add_row(what, value, *judged(bar, kept))
            console.print(shown)
    if missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
