"""The importance of each layer, from its weights."""
