"""A clip's takes: on disk, in one strip, compared, pinned, made anew whole or in part."""
