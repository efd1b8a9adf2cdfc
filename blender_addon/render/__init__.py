"""Control pictures, masks and source frames from the scene's own renderer."""
