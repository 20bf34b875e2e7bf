"""Experiments: trials of codecs, images and channels become rows, and rows become tables and figures."""
