"""Generative codecs through their authors' own code, an adapter a module; `base` says what they share."""
