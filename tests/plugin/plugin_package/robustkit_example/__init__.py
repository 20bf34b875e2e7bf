"""Codecs that robustkit finds through their entry points alone."""
