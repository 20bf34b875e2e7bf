from pathlib import Path

import torch
from block_means import analyse, synthesise
from ELIC import WIDTH  # noqa: F401


class Codec(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.entropy_bottleneck = torch.nn.Module()
        self.entropy_bottleneck.register_parameter("_matrix0", torch.nn.Parameter(torch.ones(1)))
        self.tables = 0

    def update(self, scale_table=None, force=False):
        assert force
        self.tables += 1


class StableCodec(torch.nn.Module):
    def __init__(self, sd_path=None, args=None):
        super().__init__()
        assert Path(sd_path, "unet").is_dir()
        torch.load(args.elic_path, weights_only=True)
        torch.load(args.codec_path, weights_only=True)
        assert (args.lora_rank_unet, args.lora_rank_vae) == (32, 16)
        assert args.pos_prompt.startswith("A high-resolution")
        self.codec = Codec()

    def compress(self, x):
        assert self.codec.tables == 1
        assert [side % 256 for side in x.shape[2:]] == [0, 0]
        assert -1 <= x.min() < 0 < x.max() <= 1
        y = analyse((x + 1) / 2)
        return {"strings": [[y], [b"z"]], "shape": torch.Size([side // 256 for side in x.shape[2:]])}

    def decompress(self, strings, shape, prompt):
        assert len(prompt) == 1
        (y,), (_,) = strings
        return synthesise(y, *(256 * side for side in shape)) * 2 - 1
