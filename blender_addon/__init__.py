"""MuseV for Blender: the extension. Nothing is imported here, so `blender_addon.protocol` loads in any Python."""
