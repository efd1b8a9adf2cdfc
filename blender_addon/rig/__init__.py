"""Rigs as the engine reads them: which bone is which point, where it is in the picture, and whether it is seen."""
