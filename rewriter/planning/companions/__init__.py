"""How what belongs to a model follows its layers: adapters, control vectors, importance matrices."""
