"""A checkpoint and the layers to keep become a plan. Pure: nothing is read or written."""
