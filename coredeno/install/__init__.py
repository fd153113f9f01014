"""From a git repository to a plugin that is verified, on the disk, and the same at every start."""
