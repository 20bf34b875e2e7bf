"""The conformance suite: claims about an image codec whose bits flip. Run it with ``pytest conformance --codec NAME``.

Without a checkout: ``pytest --pyargs robustkit.conformance --codec NAME``. It uses robustkit's public names only, so
that each check can serve as a pattern for one's own.
"""
