"""MuseV's engine: visual-conditioned parallel denoising on Stable Diffusion 1.5, as a library.

Importing this package imports nothing heavy; the rooms (`models`, `windows`, `sampling`, ...) do.
"""
