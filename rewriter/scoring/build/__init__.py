"""From tensors to a transformer, in this order: names -> roles (tensor_roles), roles -> the tensors of each layer
(layer_tensors), with what metadata and architecture say (model_facts) -> norms_and_projections -> attention and
feed_forward -> layer; with embedding and head -> residual_stream. Each imports only those before it."""
