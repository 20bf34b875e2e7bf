"""Reverse channel coding: codecs that send the noise of a diffusion model's steps, in small shared parts."""
