"""PSC: posterior samples say what is measured next, so that the measurements alone are sent."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustkit.codec import Image
from robustkit.codecs.rcc.base import CommonSettings, RCCCodec, check_one_rate, coin_noise
from robustkit.codecs.rcc.container import Header, Parameters
from robustkit.codecs.rcc.protocol import Integers
from robustkit.codecs.rcc.schedule import SCHEDULES, check_schedule, reverse_step
from robustkit.priors.base import NoiseLevel, Prior
from robustkit.profile import Profile, Promise

MOST_ROWS = 65535
#: Cell of the uniform quantiser of 1, 2, ... bits that suits a normal variable of unit variance (Max 1960).
CELLS = (1.596, 0.9957, 0.586, 0.3352, 0.1881, 0.1041)
#: Log-SNRs that the first samples, of the prior itself, are drawn through: fewer lose the spread of the mean colours.
FIRST_LOG_SNRS = tuple(np.linspace(-9, 4, 24).tolist())
#: By how much in log-SNR a step goes back behind the level that its measurements would pay for.
BACK = 1.0
#: By how much the spread of few short-run samples is less than the deviation of the truth from their mean.
WIDENING = 2.0
#: Share of a variance that the mean of its neighbourhood decides: four samples say little of one number.
POOLING = 0.7
#: Rise in log-SNR from the last level to that of the final estimate.
FINAL_LOG_SNR = 0.5
_LEAST_VARIANCE = 1e-8


@dataclass(frozen=True)
class PSCParameters(Parameters):
    """Attributes:
    steps: how often rows are chosen.
    rows: r, measurements a step.
    bits: of a measurement.
    samples: s, posterior samples that the rows are chosen from.
    """

    steps: int = 1
    rows: int = 1
    bits: int = 1
    samples: int = 2

    fields = (("steps", 8), ("rows", 16), ("bits", 4), ("samples", 4))


PSCHeader = Header[PSCParameters]


class PSC(RCCCodec[PSCParameters, Integers]):
    """Posterior Sampling Compression (Elata et al., arXiv 2407.09896) with rows from a fixed orthonormal family.

    Unlike its paper's, by default it has a small prior, and always it measures axes of the latent instead of principal
    directions of the samples, writes a measurement in a few bits instead of a float of eight, and has a protected
    header.

    Encoder and decoder draw the same posterior samples given the measurements so far, and both choose from them what
    is measured next: nothing is sent of the rows. As published, rows are the leading principal directions of the
    samples. Such directions turn, swap and change sign with the last bits of a float, so here a row is an axis of the
    latent, the one of each of r pseudo-random sections in which the samples vary most. The embedded prior's latent is
    already in the principal components of its blocks.

    Args:
        steps: how often rows are chosen; each takes ``samples`` calls of the denoiser.
        rows: r, measurements a step; by default what the rate allows.
        bits: of a measurement, 1 to 6; published is a float of eight.
        samples: s, posterior samples, 2 to 15.
        common: what every RCC codec takes (:class:`robustkit.codecs.rcc.base.RCCCodec`).

    Raises:
        ValueError: a setting is out of range; the message names it.
        PriorError: the prior can't be loaded.
    """

    name = "psc"
    #: What is measured next may turn on a float's last bit, and a part of the picture with it.
    tolerance = (58.0, 0.35)
    methods: ClassVar[Mapping[int, type[PSCParameters]]] = {5: PSCParameters}
    promises: ClassVar[Profile | None] = Profile(
        bpp=0.4,
        quality=26.0,
        expected_refused=0.0,
        promises=(
            Promise(
                "bsc(ber=0.0001)",
                mean_drop=1.55,
                p5_drop=6.25,
                expected_mean_drop=0.697,
                expected_p5_drop=2.98,
                expected_corrupted=0.0,
            ),
            Promise(
                "bsc(ber=0.001)",
                mean_drop=4.05,
                p5_drop=7.6,
                expected_mean_drop=3.23,
                expected_p5_drop=5.19,
                expected_corrupted=0.0,
            ),
            Promise(
                "burst(length=32)",
                mean_drop=1.9,
                p5_drop=8.45,
                expected_mean_drop=0.712,
                expected_p5_drop=4.09,
                expected_corrupted=0.0,
            ),
        ),
    )

    def __init__(
        self,
        *,
        steps: int = 16,
        rows: int | None = None,
        bits: int = 4,
        samples: int = 3,
        **common: Unpack[CommonSettings],
    ) -> None:
        if not 1 <= steps <= 255:
            raise ValueError(f"steps = {steps}: give 1 to 255")
        if not 1 <= bits <= len(CELLS):
            raise ValueError(f"bits = {bits}: give 1 to {len(CELLS)} a measurement")
        if not 2 <= samples <= 15:
            raise ValueError(f"samples = {samples}: give 2 to 15")
        check_one_rate("rows", rows, common)
        if rows is not None and not 1 <= rows <= MOST_ROWS:
            raise ValueError(f"rows = {rows}: give 1 to {MOST_ROWS} a step")
        super().__init__(**common)
        if problem := check_schedule(self.prior, self.schedule, steps + 1):
            raise ValueError(problem)
        self.rows = rows
        self.settings = PSCParameters(steps=steps, bits=bits, samples=samples)
        self._first: tuple[object, Tensor] | None = None

    # -- bitstreams ---------------------------------------------------------------------------------------

    def _settle(self, header: PSCHeader, budget: int) -> PSCHeader:
        method, most = self.settings, self._most_rows(header)
        if self.rows is not None:
            method = replace(method, rows=min(self.rows, most))
        else:
            measurements = max(1, 8 * budget // method.bits)
            # Where even one measurement a step is too much, there are fewer steps.
            steps = min(method.steps, measurements)
            method = replace(method, steps=steps, rows=min(measurements // steps, most))
        return replace(header, method=method, payload=_payload_bytes(method))

    def _problem(self, header: PSCHeader) -> str | None:
        method = header.method
        if (
            not method.steps
            or not 1 <= method.rows <= self._most_rows(header)
            or not 1 <= method.bits <= len(CELLS)
            or method.samples < 2
            or header.payload != _payload_bytes(method)
        ):
            return "the header's settings contradict each other"
        return check_schedule(self.prior, SCHEDULES[header.schedule], method.steps + 1)

    def _most_rows(self, header: PSCHeader) -> int:
        return min(MOST_ROWS, math.prod(self._latent_shape(header)))

    def _work(self, header: PSCHeader, payload: int) -> int:
        method = header.method
        # Without a measurement that arrived, a step has no samples of its own.
        arrived = min(method.steps, -(-(8 * payload // method.bits) // method.rows))
        return (len(FIRST_LOG_SNRS) + arrived) * self._call(header, method.samples)

    def _fields(self, header: PSCHeader, payload: bytes) -> Iterator[tuple[str, int]]:
        method = header.method
        for step in range(method.steps):
            yield from ((f"step {step} measurement {row}", method.bits) for row in range(method.rows))
        yield "padding", 8 * header.payload - method.steps * method.rows * method.bits

    # -- coding -------------------------------------------------------------------------------------------

    def _write(self, header: PSCHeader, clean: Tensor) -> bytes:
        survey = self._survey(header)
        knowledge, codes = survey.start(self._first_samples(header)), []
        for step in range(header.method.steps):
            knowledge = survey.sample(knowledge, step)
            rows = survey.choose(knowledge, step)
            codes.append(rows.measure(clean.flatten()))
            knowledge = knowledge.given(rows, codes[-1])
        return _pack(torch.stack(codes).cpu().numpy(), header.method.bits)

    def _read(self, header: PSCHeader, payload: bytes) -> Integers:
        return _unpack(payload, header.method)

    def _reconstruct(self, header: PSCHeader, payloads: list[Integers]) -> list[Image]:
        survey, images = self._survey(header), dict[int, Image]()
        start = survey.start(self._first_samples(header))
        for members, latents in survey.finals(start, dict(enumerate(payloads))):
            (image,) = self._images(header, latents)
            # Copies, so that nobody who writes on one image changes its twin.
            images |= {member: image.copy() for member in members}
        return [images[place] for place in range(len(payloads))]

    def _survey(self, header: PSCHeader) -> _Survey:
        method, shape = header.method, self._latent_shape(header)
        # A rise in SNR brings half of it, times the mean squared error, in nats (Guo, Shamai and Verdu 2005).
        correlation = 2 * math.log(2) * method.rows * method.bits / math.prod(shape)
        levels = self._levels(header, steps=method.steps + 1, closing=0, correlation=correlation)
        return _Survey(self.prior, header, shape, levels)

    def _first_samples(self, header: PSCHeader) -> Tensor:
        """Samples of the prior, ``(s, c, h, w)``, by DDIM: the same for all streams of one size and seed."""
        shape = (header.method.samples, *self._latent_shape(header))
        key = (header.seed, shape)
        if self._first is None or self._first[0] != key:
            levels = [self.prior.level_at_snr(log_snr) for log_snr in FIRST_LOG_SNRS]
            state = coin_noise(header.seed, 1 << 32, shape).to(self.prior.device)
            for now, following in itertools.pairwise(levels):
                state = reverse_step(state, self.prior.predict_clean(state, now), now, following, None)
            self._first = key, self.prior.predict_clean(state, levels[-1])
        return self._first[1]

    def describe(self) -> Mapping[str, str]:
        method, facts = self.settings, dict(super().describe())
        facts["settings"] = f"steps={method.steps} bits={method.bits} samples={method.samples} " + (
            facts["settings"] if self.rows is None else f"rows={self.rows} {facts['settings'].partition(' ')[2]}"
        )
        return facts


@dataclass(frozen=True)
class _Rows:
    """What a step measures, r numbers each.

    Attributes:
        places: of the axes, in the flattened latent; int64.
        means: of the samples there.
        cells: widths of the quantiser's cells.
        half: number of cells on each side of the mean; the outermost have no end.
    """

    places: Tensor
    means: Tensor
    cells: Tensor
    half: int

    def measure(self, clean: Tensor) -> Tensor:
        """The numbers of the cells, int64, -half to half - 1, that the flattened latent ``clean`` falls into."""
        return torch.floor((clean[self.places] - self.means) / self.cells).clamp(-self.half, self.half - 1).long()

    def bounds(self, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Low end, middle and high end of cells. The outermost have an infinite end, and the middle of an inner one."""
        low = self.means + codes * self.cells
        high = low + self.cells
        middle = (low + high) / 2
        return (
            low.masked_fill(codes == -self.half, -math.inf),
            middle,
            high.masked_fill(codes == self.half - 1, math.inf),
        )


@dataclass(frozen=True)
class _Knowledge:
    """What both sides know of the latent.

    Attributes:
        samples: of the posterior, ``(s, c, h, w)``.
        low, high: ``(c, h, w)``, what the measurements say each number is between.
    """

    samples: Tensor
    low: Tensor
    high: Tensor

    def agreeing(self, latents: Tensor) -> Tensor:
        """``latents`` moved to the nearest that the measurements allow."""
        return torch.minimum(torch.maximum(latents, self.low), self.high)

    def given(self, rows: _Rows, codes: Tensor) -> _Knowledge:
        """After measurements; ``codes`` int64 of the first rows, all or fewer."""
        rows = replace(
            rows, places=rows.places[: len(codes)], means=rows.means[: len(codes)], cells=rows.cells[: len(codes)]
        )
        low, middle, high = rows.bounds(codes)
        before_low, before_high = (ends.flatten()[rows.places] for ends in (self.low, self.high))
        both_low, both_high = torch.maximum(before_low, low), torch.minimum(before_high, high)
        # Damaged measurements contradict each other: the last one is believed.
        apart = both_low > both_high
        both_low, both_high = torch.where(apart, low, both_low), torch.where(apart, high, both_high)
        samples, lows, highs = (t.clone() for t in (self.samples.flatten(1), self.low.flatten(), self.high.flatten()))
        lows[rows.places], highs[rows.places] = both_low, both_high
        # To near the middle of the cell, by a continuous map: a jump would turn on the last bits of a float.
        inner_low = torch.where(low.isinf(), low, middle - rows.cells / 16)
        inner_high = torch.where(high.isinf(), high, middle + rows.cells / 16)
        here = torch.minimum(torch.maximum(samples[:, rows.places], inner_low), inner_high)
        samples[:, rows.places] = torch.minimum(torch.maximum(here, both_low), both_high)
        return _Knowledge(
            *(t.view_as(old) for t, old in ((samples, self.samples), (lows, self.low), (highs, self.high)))
        )


class _Survey:
    """The measuring of one latent, the same on both sides.

    The samples of one stream are a batch of their own: the sums of convolutions depend on the batch's size in their
    last bits, and a choice could turn on them.
    """

    def __init__(
        self, prior: Prior, header: PSCHeader, shape: tuple[int, int, int], levels: Sequence[NoiseLevel]
    ) -> None:
        self.prior, self.seed, self.method, self.shape = prior, header.seed, header.method, shape
        self.numbers = math.prod(shape)
        self.positions = [_log_snr(level) for level in levels]

    def start(self, samples: Tensor) -> _Knowledge:
        """Before any measurement."""
        anything = torch.full(self.shape, math.inf, device=self.prior.device)
        return _Knowledge(samples, -anything, anything)

    def sample(self, knowledge: _Knowledge, step: int) -> _Knowledge:
        """New samples of the posterior: each old one with noise of the step's level, denoised and made to agree."""
        if step == 0:
            return knowledge
        level = self.prior.level_at_snr(self.positions[step] - BACK)
        noise = coin_noise(self.seed, (1 << 32) + step, knowledge.samples.shape).to(self.prior.device)
        noisy = math.sqrt(level.alpha_bar) * knowledge.samples + math.sqrt(1 - level.alpha_bar) * noise
        return replace(knowledge, samples=knowledge.agreeing(self.prior.predict_clean(noisy, level)))

    def choose(self, knowledge: _Knowledge, step: int) -> _Rows:
        """The rows of a step: of each section the axis of most variance, as far as its binary exponent goes.

        Comparing exponents, and the order of the section among equals, keeps a choice where the last bits of floats
        change a variance by little. A section's choice concerns its own measurement alone.
        """
        variance = knowledge.samples.var(dim=0, correction=1)
        around = F.avg_pool2d(F.pad(variance[None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[0]
        variance = (1 - POOLING) * variance + POOLING * around
        # What is known to lie in a cell varies by no more than the cell does.
        variance = torch.minimum(variance, (knowledge.high - knowledge.low).square() / 12) + _LEAST_VARIANCE
        variance = variance.flatten()
        exponents = torch.frexp(variance).exponent.long()

        rows, width = self.method.rows, self.numbers // self.method.rows
        order = np.argsort(np.random.Philox(key=[self.seed, step]).random_raw(self.numbers), kind="stable")
        sections = torch.from_numpy(order[: rows * width].reshape(rows, width)).to(self.prior.device)
        ranks = exponents[sections] * width - torch.arange(width, device=self.prior.device)
        places = sections.gather(1, ranks.argmax(dim=1, keepdim=True))[:, 0]

        cells = CELLS[self.method.bits - 1] * WIDENING * variance[places].sqrt()
        means = knowledge.samples.mean(dim=0).flatten()[places]
        return _Rows(places, means, cells, 1 << self.method.bits - 1)

    def finish(self, knowledge: _Knowledge, steps: int) -> Tensor:
        """The final latents ``(1, c, h, w)`` after so many steps."""
        level = self.prior.level_at_snr(self.positions[steps] + FINAL_LOG_SNR)
        mean = knowledge.samples.mean(dim=0, keepdim=True)
        return knowledge.agreeing(self.prior.predict_final(math.sqrt(level.alpha_bar) * mean, level))

    def finals(self, start: _Knowledge, payloads: dict[int, Integers]) -> Iterator[tuple[list[int], Tensor]]:
        """The final latents of payloads, and the keys of those that have them.

        Payloads share their samples until they part: damaged copies of one stream do at their first flips.
        """
        waiting = [(start, 0, payloads)]
        while waiting:
            knowledge, step, members = waiting.pop()
            begin, end = step * self.method.rows, (step + 1) * self.method.rows
            if done := [key for key, codes in members.items() if len(codes) <= begin]:
                yield done, self.finish(knowledge, step)
            groups: dict[bytes, dict[int, Integers]] = {}
            for key, codes in members.items():
                if len(codes) > begin:
                    groups.setdefault(codes[begin:end].tobytes(), {})[key] = codes
            if not groups:
                continue
            knowledge = self.sample(knowledge, step)
            rows = self.choose(knowledge, step)
            for group in groups.values():
                codes = next(iter(group.values()))[begin:end]
                known = knowledge.given(rows, torch.from_numpy(codes).to(self.prior.device))
                waiting.append((known, step + 1, group))


def _log_snr(level: NoiseLevel) -> float:
    # At rates no image needs, a level may be as good as clean.
    return math.log(level.alpha_bar / max(1 - level.alpha_bar, 1e-12))


def _payload_bytes(method: PSCParameters) -> int:
    return -(-method.steps * method.rows * method.bits // 8)


def _pack(codes: Integers, bits: int) -> bytes:
    """Cell numbers ``(steps, rows)`` as sign and magnitude, ``bits`` each, from the highest bit down."""
    words = np.where(codes < 0, -1 - codes + (1 << bits - 1), codes).reshape(-1, 1)
    return np.packbits((words >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8)).tobytes()


def _unpack(payload: bytes, method: PSCParameters) -> Integers:
    """The cell numbers that arrived, in their order."""
    bits, half = method.bits, 1 << method.bits - 1
    arrived = min(method.steps * method.rows, 8 * len(payload) // bits)
    found = np.unpackbits(np.frombuffer(payload, np.uint8), count=arrived * bits).reshape(arrived, bits)
    words = found.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1))
    return np.where(words < half, words, half - 1 - words)
