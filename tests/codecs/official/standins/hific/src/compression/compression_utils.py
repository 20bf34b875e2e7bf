from collections import namedtuple

CompressionOutput = namedtuple(
    "CompressionOutput",
    [
        "hyperlatents_encoded",
        "latents_encoded",
        "hyperlatent_spatial_shape",
        "batch_shape",
        "spatial_shape",
        "hyper_coding_shape",
        "latent_coding_shape",
    ],
)
