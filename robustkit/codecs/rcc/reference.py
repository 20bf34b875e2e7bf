"""The published codecs' own bitstreams: their codebooks, timesteps, order of operations and bit order, to the bit.

With the same Stable Diffusion pipeline, dtype and device, these encoders write the streams that the authors' programs
write, and each side decodes the other's. Floating-point sums decide which atoms are chosen, so the tensor operations
here are the published ones, in their order and shapes, and no faster ones.

Sources: Turbo-DDCM, Vaisman et al., arXiv 2511.06424 (github.com/AmitVaisman/Turbo-DDCM); Robust Turbo-DDCM,
arXiv 2604.05743 (github.com/galkesten/Diffusion-Compression-Editing-Attacks); DDCM, Ohayon et al., arXiv 2502.01189
(github.com/DDCM-2025/ddcm-compressed-image-generation).
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from robustkit.codec import DecodeError, EncodeError, Image
from robustkit.codecs.rcc.container import check_size
from robustkit.codecs.rcc.protocol import BitProtocol, Bits, Integers, JointRank
from robustkit.codecs.rcc.schedule import PUBLISHED_TIMESTEPS
from robustkit.priors.base import Prior
from robustkit.priors.stable_diffusion import StableDiffusionPrior

#: The largest codebook that is made, K times n numbers: 4 GiB in float32, of which DDCM's matching pursuit takes a few.
#: K = 2**14 for an image of 768x768 is about half.
MOST_ENTRIES = 1 << 30


class Published(ABC):
    """A published codec on one Stable Diffusion pipeline.

    Images of any size are taken. Sides that are no multiples of what the U-Net needs are padded by reflection; the
    published programs know the pipeline's own size alone, and scale other images to it.

    Args:
        prior: the pipeline; its VAE runs in the U-Net's dtype, as published.
        K: atoms of a step's codebook, a power of two.
        bits: that a step takes.

    Raises:
        ValueError: the prior is no Stable Diffusion pipeline, or a setting is out of range.
    """

    def __init__(self, prior: Prior, *, K: int, bits: int) -> None:
        if not isinstance(prior, StableDiffusionPrior):
            raise ValueError(
                "codebook 'reference' is of Stable Diffusion pipelines: "
                "give prior= a folder that StableDiffusionPipeline.save_pretrained wrote, or a hub name"
            )
        if prior.dtype not in (torch.float32, torch.float16):
            raise ValueError(f"dtype {prior.dtype}: codebook 'reference' takes float32 and float16, as published")
        self.prior, self.K, self.bits = prior, K, bits
        self.alphas_bar: Tensor = prior.scheduler.alphas_cumprod
        if len(self.alphas_bar) != 1000:
            raise ValueError(f"codebook 'reference' needs a prior of 1000 timesteps, this has {len(self.alphas_bar)}")
        self.vae = prior.vae if prior.vae.dtype == prior.dtype else copy.deepcopy(prior.vae).to(prior.dtype)
        #: The timestep of each step, its alpha_bar, and that of the step's end; float32 scalars on the CPU.
        self.levels: list[tuple[int, Tensor, Tensor]] = []

    # -- a scheme -----------------------------------------------------------------------------------------

    @abstractmethod
    def coded_steps(self, height: int, width: int) -> int:
        """How many steps carry bits, for an image of this size."""

    @abstractmethod
    def step_fields(self) -> list[tuple[str, int]]:
        """Names and bit counts of a step's parts, in their order."""

    @abstractmethod
    def _first_noise(self, shape: tuple[int, ...]) -> Tensor:
        """x_T, ``(1, c, h, w)``."""

    @abstractmethod
    def _codebook_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The scheme's own shape of a step's atoms, for latents of ``shape``."""

    @abstractmethod
    def _codebook_seed(self, step: int) -> int:
        """What a step's atoms are drawn from."""

    @abstractmethod
    def _predict(self, state: Tensor, step: int) -> Tensor:
        """The U-Net's output, as the scheme keeps it."""

    @abstractmethod
    def _clean(self, state: Tensor, predicted: Tensor, step: int) -> Tensor:
        """The estimate of the clean latents."""

    @abstractmethod
    def _choose(self, codebook: Tensor, residual: Tensor) -> tuple[Bits, Tensor]:
        """A step's bits for a residual ``(1, c, h, w)``, and the noise that they stand for."""

    @abstractmethod
    def _read(self, bits: Bits) -> tuple[Integers, Integers]:
        """A step's indices and coefficients; DecodeError where the bits name none."""

    @abstractmethod
    def _combine(self, codebook: Tensor, indices: Integers, coefficients: Integers) -> Tensor:
        """The noise that a step's indices and coefficients stand for, n numbers."""

    @abstractmethod
    def _advance(self, state: Tensor, predicted: Tensor, step: int, noise: Tensor | None) -> Tensor:
        """One reverse step, with ``noise`` (eta = 1) or without."""

    # -- streams ------------------------------------------------------------------------------------------

    def length(self, height: int, width: int) -> int:
        """Bytes of the stream of an image of this size."""
        return -(-self.coded_steps(height, width) * self.bits // 8)

    def fields(self, height: int, width: int) -> list[tuple[str, int]]:
        """Names and bit counts of a stream's fields, in their order: the padding comes first."""
        steps = self.coded_steps(height, width)
        named = [(f"step {step} {name}", length) for step in range(steps) for name, length in self.step_fields()]
        fields = [("padding", 8 * self.length(height, width) - steps * self.bits), *named]
        return [(name, length) for name, length in fields if length]

    def check(self, height: int, width: int) -> str | None:
        """Why an image of this size is not taken, or ``None`` if it is."""
        if problem := check_size(height, width):
            return problem
        elements = math.prod(self._latent_shape(height, width))
        if self.K * elements > MOST_ENTRIES:
            return (
                f"K = {self.K} atoms of {elements} numbers are {self.K * elements} in all, of at most {MOST_ENTRIES}: "
                "give a smaller K or image"
            )
        return None

    @torch.inference_mode()
    def encode(self, image: Image) -> bytes:
        """The stream of an image, uint8 ``(height, width, 3)``.

        Raises:
            EncodeError: too large, see :meth:`check`.
        """
        height, width = image.shape[:2]
        if problem := self.check(height, width):
            raise EncodeError(problem)
        clean = self._to_latents(image)
        shape = tuple(clean.shape[1:])
        state, atoms = self._first_noise(shape), self._room_for_atoms(shape)
        written = []
        for step in range(self.coded_steps(height, width)):
            state = state.to(self.prior.dtype)
            predicted = self._predict(state, step)
            residual = clean - self._clean(state, predicted, step).to(self.prior.dtype)
            bits, noise = self._choose(self._draw(atoms, step), residual)
            written.append(bits)
            state = self._advance(state, predicted, step, noise.view_as(state))
        stream = np.concatenate(written)
        # The published programs write one big-endian integer: what it lacks to whole bytes are zeros at its front.
        return np.packbits(np.pad(stream, (-len(stream) % 8, 0))).tobytes()

    def read(self, bitstream: bytes, height: int, width: int) -> list[tuple[Integers, Integers]]:
        """Indices and coefficients of each step.

        Raises:
            DecodeError: too long or too short, or a step's bits name no set of atoms.
        """
        needed = self.length(height, width)
        if len(bitstream) != needed:
            raise DecodeError(f"{len(bitstream)} bytes, where the settings need {needed}")
        words = self._words(bitstream, height, width)
        read = []
        for step, word in enumerate(words):
            try:
                read.append(self._read(word))
            except DecodeError as error:
                raise DecodeError(f"step {step}: {error}") from error
        return read

    def _words(self, bitstream: bytes, height: int, width: int) -> Bits:
        """The bits of each step, ``(steps, bits)``, of a stream of the right length."""
        steps = self.coded_steps(height, width)
        bits = np.unpackbits(np.frombuffer(bitstream, np.uint8))
        return bits[len(bits) - steps * self.bits :].reshape(steps, self.bits)

    @torch.inference_mode()
    def decode_batch(self, bitstreams: Sequence[bytes], height: int, width: int) -> list[Image | DecodeError]:
        """Images uint8 ``(height, width, 3)``, or why there is none, in the streams' order.

        Each is computed as if it were alone. Streams share a step's codebook, and one state for as long as they agree.
        """
        if problem := self.check(height, width):
            return [DecodeError(problem) for _ in bitstreams]
        decoded: list[Image | DecodeError] = [DecodeError("not decoded")] * len(bitstreams)
        said, words, state_of = {}, {}, {}
        for place, bitstream in enumerate(bitstreams):
            try:
                said[place] = self.read(bitstream, height, width)
            except DecodeError as error:
                decoded[place] = error
                continue
            words[place], state_of[place] = self._words(bitstream, height, width), 0
        if not said:
            return decoded
        shape = self._latent_shape(height, width)
        states, coded = [self._first_noise(shape)], self.coded_steps(height, width)
        atoms = self._room_for_atoms(shape)
        for step in range(len(self.levels)):
            if step < coded:
                states = [state.to(self.prior.dtype) for state in states]
            predictions = [self._predict(state.to(self.prior.dtype), step) for state in states]
            if step >= coded:
                states = [self._advance(*pair, step, None) for pair in zip(states, predictions, strict=True)]
                continue
            codebook = self._draw(atoms, step)
            moved: list[Tensor] = []
            numbers: dict[tuple[int, bytes], int] = {}
            for place in said:
                parent, word = state_of[place], words[place][step].tobytes()
                if (parent, word) not in numbers:
                    numbers[parent, word] = len(moved)
                    noise = self._combine(codebook, *said[place][step]).view_as(states[parent])
                    moved.append(self._advance(states[parent], predictions[parent], step, noise))
                state_of[place] = numbers[parent, word]
            states = moved
        del atoms, codebook
        images = [self._to_image(state, height, width) for state in states]
        for place, number in state_of.items():
            # Copies, so that nobody who writes on one image changes its twin.
            decoded[place] = images[number].copy()
        return decoded

    def decode(self, bitstream: bytes, height: int, width: int) -> Image:
        """The image of one stream.

        Raises:
            DecodeError: see :meth:`read` and :meth:`check`.
        """
        (decoded,) = self.decode_batch([bitstream], height, width)
        if isinstance(decoded, DecodeError):
            raise decoded
        return decoded

    # -- pixels and latents -------------------------------------------------------------------------------

    def _latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        multiple = self.prior.pixel_multiple
        return self.prior.latent_shape(*(-(-side // multiple) * multiple for side in (height, width)))

    def _to_latents(self, image: Image) -> Tensor:
        padding = [(0, -side % self.prior.pixel_multiple) for side in image.shape[:2]]
        padded = torch.from_numpy(np.pad(image, [*padding, (0, 0)], mode="symmetric"))
        pixels = padded.permute(2, 0, 1)[None].to(torch.float32).div(255) * 2 - 1
        latents = self.vae.encode(pixels.to(self.prior.device, self.prior.dtype)).latent_dist.mode()
        scaled: Tensor = latents * self.vae.config.scaling_factor
        return scaled

    def _to_image(self, state: Tensor, height: int, width: int) -> Image:
        latents = state.to(self.prior.dtype) / self.vae.config.scaling_factor
        pixels = self.vae.decode(latents).sample.clamp(-1, 1)[0, :, :height, :width]
        shown = (pixels / 2 + 0.5).clamp(0, 1).nan_to_num().cpu().numpy()
        # Cut off, not rounded: the published programs save by matplotlib.
        return np.ascontiguousarray((shown * 255).astype(np.uint8).transpose(1, 2, 0))

    def _network(self, state: Tensor, step: int) -> Tensor:
        timestep = self.levels[step][0]
        predicted: Tensor = self.prior.network(state, timestep, encoder_hidden_states=self.prior.prompt).sample
        return predicted

    def _room(self, *shape: int) -> Tensor:
        return torch.empty(shape, device=self.prior.device, dtype=self.prior.dtype)

    def _room_for_atoms(self, shape: tuple[int, ...]) -> Tensor:
        """For the codebooks of all steps, one after the other.

        Two of them are the most of a decoder's memory, and to touch a new one's pages takes half as long as to draw it.
        """
        return self._room(*self._codebook_shape(shape))

    def _draw(self, atoms: Tensor, step: int) -> Tensor:
        """All atoms of a step, written over those of the step before."""
        return self._normal(atoms, seed=self._codebook_seed(step))

    def _normal(self, room: Tensor, *, seed: int) -> Tensor:
        # A generator of its own has the numbers of the global one, which stays as it was.
        generator = torch.Generator(self.prior.device).manual_seed(seed)
        return torch.randn(room.shape, generator=generator, out=room)


class PublishedTurboDDCM(Published):
    """Turbo-DDCM, and with :class:`~robustkit.codecs.rcc.protocol.IndependentIndices` Robust Turbo-DDCM.

    The joint rank's signs follow the rising indices. Independent indices, and their signs, stand in the order in which
    they were chosen, the largest inner product first. A sign bit is 1 for plus.

    Args:
        prior: a Stable Diffusion pipeline.
        protocol: how a step is written; has K and M.
        T: timesteps, 2 to 162.
        N: closing steps without bits; ``None`` is the published rule, :func:`published_closing`.
        seed: of the first noise; step i's codebook has ``seed + i + 1``.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(self, prior: Prior, protocol: BitProtocol, *, T: int, N: int | None, seed: int) -> None:
        super().__init__(prior, K=protocol.size, bits=protocol.bits)
        if not 2 <= T <= len(PUBLISHED_TIMESTEPS):
            raise ValueError(f"T = {T} timesteps: codebook 'reference' takes 2 to {len(PUBLISHED_TIMESTEPS)}")
        self.protocol, self.closing, self.seed = protocol, N, seed
        stride = (len(PUBLISHED_TIMESTEPS) - 1) / (T - 1)
        timesteps = [PUBLISHED_TIMESTEPS[round(place * stride)] for place in range(T)]
        alphas = [self.alphas_bar[timestep] for timestep in (*timesteps, 0)]
        self.levels = list(zip(timesteps, alphas[:-1], alphas[1:], strict=True))

    def coded_steps(self, height: int, width: int) -> int:
        steps, closing = len(self.levels), self.closing
        if closing is None:
            closing = published_closing(steps, bits=self.bits, height=height, width=width)
        return steps - 1 - closing

    def step_fields(self) -> list[tuple[str, int]]:
        return list(self.protocol.fields())

    def _first_noise(self, shape: tuple[int, ...]) -> Tensor:
        return self._normal(self._room(*shape), seed=self.seed).unsqueeze(0)

    def _codebook_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return math.prod(shape), self.K

    def _codebook_seed(self, step: int) -> int:
        return self.seed + step + 1

    def _predict(self, state: Tensor, step: int) -> Tensor:
        predicted, alpha_bar = self._network(state, step), self.levels[step][1]
        if self.prior.kind == "v_prediction":
            predicted = (alpha_bar**0.5) * predicted + ((1 - alpha_bar) ** 0.5) * state
        # The published code keeps its first prediction, made once for all images, in float32.
        return predicted.float() if step == 0 else predicted

    def _clean(self, state: Tensor, predicted: Tensor, step: int) -> Tensor:
        alpha_bar = self.levels[step][1]
        return (state - (1 - alpha_bar) ** 0.5 * predicted) / alpha_bar**0.5

    def _choose(self, codebook: Tensor, residual: Tensor) -> tuple[Bits, Tensor]:
        products = (codebook.T @ residual.view(-1)).view(-1)
        chosen = torch.topk(products.abs(), self.protocol.count).indices
        weights = torch.zeros(self.K, dtype=codebook.dtype, device=codebook.device)
        weights[chosen] = torch.sign(products[chosen])
        noise = codebook @ weights
        noise /= noise.std()
        indices, plus = chosen.cpu().numpy(), (weights[chosen] > 0).cpu().numpy()
        order = np.argsort(indices) if isinstance(self.protocol, JointRank) else np.arange(len(indices))
        # The protocols write 1 for -1, the published code 1 for +1.
        return self.protocol.write(indices[order], np.where(plus[order], -1, 1)), noise

    def _read(self, bits: Bits) -> tuple[Integers, Integers]:
        indices, signs = self.protocol.read(bits)
        return indices, -signs

    def _combine(self, codebook: Tensor, indices: Integers, coefficients: Integers) -> Tensor:
        weights = np.zeros(self.K, np.float32)
        weights[indices] = coefficients  # where a damaged stream names an atom twice, the last one counts
        noise = codebook @ torch.from_numpy(weights).to(codebook.device, codebook.dtype)
        noise /= noise.std()
        return noise

    def _advance(self, state: Tensor, predicted: Tensor, step: int, noise: Tensor | None) -> Tensor:
        _, alpha_bar, following = self.levels[step]
        variance = _variance(alpha_bar, following)
        taken = 0 if noise is None else variance
        moved = following**0.5 * self._clean(state, predicted, step) + (1 - following - taken) ** 0.5 * predicted
        return moved if noise is None else moved + variance**0.5 * noise


class PublishedDDCM(Published):
    """DDCM: one atom a step, or M of them by matching pursuit.

    An index is followed by a coefficient and an index for each further atom. Coefficient 0 ends a step's pursuit. Seeds
    are the published program's own, and no setting.

    Args:
        prior: a Stable Diffusion pipeline.
        T: timesteps, 2 to 1000, evenly from 999 to 0; all but the last carry bits.
        K: atoms of a step's codebook, a power of two.
        M: atoms a step.
        C: bits of a coefficient, 1 to 8; without meaning where M is 1.

    Raises:
        ValueError: a setting is out of range.
    """

    FIRST_SEED = 100000

    def __init__(self, prior: Prior, *, T: int, K: int, M: int = 1, C: int = 3) -> None:
        if K < 2 or K & (K - 1):
            raise ValueError(f"K = {K}: give a power of two of at least 2")
        if not 1 <= M <= 1 << 16:
            raise ValueError(f"M = {M}: give 1 to {1 << 16} atoms a step")
        if not 1 <= C <= 8:
            raise ValueError(f"C = {C}: give 1 to 8 bits a coefficient")
        if not 2 <= T <= 1000:
            raise ValueError(f"T = {T} timesteps: give 2 to 1000")
        self.M, self.C, self.index_bits = M, C, K.bit_length() - 1
        super().__init__(prior, K=K, bits=M * self.index_bits + (M - 1) * C)
        timesteps = [int(timestep) for timestep in np.linspace(0, 999, T).round()[::-1]]
        # As published, and as diffusers' DDIM: a step goes down 1000 // T timesteps, whatever the next one is.
        ends = [timestep - 1000 // T for timestep in timesteps]
        final: Tensor = self.prior.scheduler.final_alpha_cumprod
        self.levels = [
            (timestep, self.alphas_bar[timestep], self.alphas_bar[end] if end >= 0 else final)
            for timestep, end in zip(timesteps, ends, strict=True)
        ]

    def coded_steps(self, height: int, width: int) -> int:
        return len(self.levels) - 1

    def step_fields(self) -> list[tuple[str, int]]:
        fields = [("atom 0 index", self.index_bits)]
        for atom in range(1, self.M):
            fields += [(f"atom {atom} coefficient", self.C), (f"atom {atom} index", self.index_bits)]
        return fields

    def _first_noise(self, shape: tuple[int, ...]) -> Tensor:
        return self._normal(self._room(1, *shape), seed=self.FIRST_SEED)

    def _codebook_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.K, *shape

    def _codebook_seed(self, step: int) -> int:
        return step

    def _predict(self, state: Tensor, step: int) -> Tensor:
        return self._network(state, step)

    def _clean(self, state: Tensor, predicted: Tensor, step: int) -> Tensor:
        alpha_bar = self.levels[step][1]
        if self.prior.kind == "v_prediction":
            return (alpha_bar**0.5) * state - ((1 - alpha_bar) ** 0.5) * predicted
        return (state - (1 - alpha_bar) ** 0.5 * predicted) / alpha_bar**0.5

    def _coefficients(self) -> Tensor:
        return torch.linspace(0, 1, 2**self.C)

    def _choose(self, codebook: Tensor, residual: Tensor) -> tuple[Bits, Tensor]:
        wanted = residual.view(1, -1).transpose(0, 1)
        products = torch.matmul(codebook.view(self.K, -1), wanted)
        best = int(torch.argmax(products))
        noise, product = codebook[best], products[best]
        chosen = [(best, 0)]
        while len(chosen) < self.M:
            better, atom, coefficient = noise, 0, 0
            for number, share in enumerate(self._coefficients()[1:], 1):
                mixed = noise.unsqueeze(0) * torch.sqrt(share) + codebook * torch.sqrt(1 - share)
                mixed /= mixed.view(self.K, -1).std(1).view(self.K, 1, 1, 1)
                products = torch.matmul(mixed.view(self.K, -1), wanted)
                best = int(torch.argmax(products))
                if products[best] > product:
                    better, product, atom, coefficient = mixed[best], products[best], best, number
            if not coefficient:
                # No atom helps, and none would on another try.
                chosen += [(0, 0)] * (self.M - len(chosen))
                break
            noise = better
            chosen.append((atom, coefficient))
        text = format(chosen[0][0], f"0{self.index_bits}b")
        text += "".join(f"{number:0{self.C}b}{atom:0{self.index_bits}b}" for atom, number in chosen[1:])
        return np.frombuffer(text.encode("ascii"), np.uint8) - ord("0"), noise

    def _read(self, bits: Bits) -> tuple[Integers, Integers]:
        # With a first coefficient, all atoms are written alike.
        pairs = np.concatenate([np.zeros(self.C, np.uint8), bits]).reshape(self.M, self.C + self.index_bits)
        numbers, indices = pairs[:, : self.C], pairs[:, self.C :]
        return _integers(indices), _integers(numbers)[1:]

    def _combine(self, codebook: Tensor, indices: Integers, coefficients: Integers) -> Tensor:
        shares = self._coefficients()
        noise = codebook[int(indices[0])]
        for atom, number in zip(indices[1:], coefficients, strict=True):
            if number == 0:
                break
            share = shares[int(number)]
            noise = noise * torch.sqrt(share) + codebook[int(atom)] * torch.sqrt(1 - share)
            noise /= noise.std()
        return noise

    def _advance(self, state: Tensor, predicted: Tensor, step: int, noise: Tensor | None) -> Tensor:
        _, alpha_bar, following = self.levels[step]
        deviation = _variance(alpha_bar, following) ** 0.5
        direction = predicted
        if self.prior.kind == "v_prediction":
            direction = (alpha_bar**0.5) * predicted + ((1 - alpha_bar) ** 0.5) * state
        clean = self._clean(state, predicted, step)
        moved = following**0.5 * clean + (1 - following - deviation**2) ** 0.5 * direction
        # The last step's variance is zero, so that its noise, drawn as published or not, is none.
        return moved if noise is None else moved + deviation * noise


def published_closing(steps: int, *, bits: int, height: int, width: int) -> int:
    """N by Turbo-DDCM's rule of thumb: the lower the rate without closing steps, the more of them.

    Args:
        steps: T.
        bits: of a step.
        height, width: of the image; up to 768x768 pixels the rule distinguishes 70 rates, above them 20.
    """
    rate = round((steps - 1) * bits / (height * width), 8)
    edges = 70 if height * width <= 768**2 else 20
    low, high = (torch.log10(torch.tensor(bpp)) for bpp in (0.01, 0.15))
    below = int(torch.bucketize(rate, torch.logspace(low, high, edges)))
    return max(0, min(steps - 2, edges - below - 1))


def _variance(alpha_bar: Tensor, following: Tensor) -> Tensor:
    """Of the noise of a DDPM step; Song, Meng and Ermon 2021, equation 16, eta = 1."""
    return ((1 - following) / (1 - alpha_bar)) * (1 - alpha_bar / following)


def _integers(bits: Bits) -> Integers:
    """Numbers written in each row, highest bit first."""
    return bits.astype(np.int64) @ (1 << np.arange(bits.shape[1] - 1, -1, -1, dtype=np.int64))
