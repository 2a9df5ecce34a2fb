"""An output goes to the disk, complete or not at all, and is verified."""
