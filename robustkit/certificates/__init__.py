"""Certificates: a statement about a codec that anyone can check, and run part of again.

It stands on :mod:`robustkit.judging`, and decodes and judges nothing itself.
"""
