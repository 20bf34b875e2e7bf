import numpy as np


def push(message, starts, frequencies, precision):
    """As the original mixes them: NumPy 2 refuses a number this large beside a 32-bit array."""
    return message + int((np.asarray(starts) + (1 << 47) * np.asarray(frequencies)).sum() * 0)
