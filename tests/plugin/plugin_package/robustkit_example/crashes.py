"""A native library that takes the process down when it is imported."""

import ctypes

print("loading the native library")
ctypes.string_at(0)
