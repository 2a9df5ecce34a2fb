"""A checkpoint as one HTML page on which a person sees its layers and picks some: the extra `report`."""
