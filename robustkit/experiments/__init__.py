"""Experiments: trials of codecs, images and channels by the thousand, kept as rows of Parquet and drawn as curves.

Nothing here decodes or judges: trials come from :mod:`robustkit.judging.subject`. What needs pyarrow or dask comes with
the extra ``experiments``.
"""

#: Mean rates that differ by no more than this share are called matched.
TOLERANCE = 0.05
