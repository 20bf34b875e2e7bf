import cleanfid  # noqa: F401  (as the original imports what coding does not use)
import torch
from absl import app  # noqa: F401


def compress_hyper_latent(indices):
    return b"".join(int(index).to_bytes(3, "big") for index in indices.flatten())


def decompress_hyper_latent(data, shape):
    rows, columns = shape[0] // 8, shape[1] // 8
    if len(data) != 3 * rows * columns:
        raise RuntimeError(f"{len(data)} bytes for {rows} x {columns} indices")
    return torch.tensor([int.from_bytes(data[i : i + 3], "big") for i in range(0, len(data), 3)]).view(1, rows, columns)
