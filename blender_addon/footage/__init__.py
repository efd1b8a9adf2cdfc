"""Strips as a clip's source: the frames that the viewer shows, from a copy of the scene."""
