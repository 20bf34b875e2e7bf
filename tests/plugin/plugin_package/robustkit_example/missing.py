"""A codec whose dependency nobody installed."""

from robustkit import Codec


class Missing(Codec):
    name = "example-missing"
    family = "example"

    @classmethod
    def missing(cls):
        return "pip install example-native-decoder"

    def encode(self, image):
        raise AssertionError("never built")

    decode = encode
