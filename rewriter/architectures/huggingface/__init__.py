"""Tables of Hugging Face model types, by family."""
