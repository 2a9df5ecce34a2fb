"""Hugging Face model types: text encoders.

Prefixes: with and without the outer name, as transformers 5 writes them back and as it holds them in memory.
"""

from __future__ import annotations

from itertools import chain

from rewriter.architectures.huggingface.builders import ALIAS, decoder, encoder, keep, vit_prefixes
from rewriter.architectures.schema import Architecture, LayerLimit, Pattern

# ModernBertConfig: layers 0, 3, 6, ... have full attention unless `layer_types` says otherwise.
_MODERNBERT = Pattern(
    explicit="layer_types",
    period_keys=("global_attn_every_n_layers",),
    default=3,
    first=True,
    special="full_attention",
    other="sliding_attention",
)
_DEBERTA_CONV = LayerLimit(
    kind="must_keep_if_set",
    value=("conv_kernel_size", 0),
    why="the convolution takes the output of layer 0, which must stay",
)
_ALBERT_GROUPS = LayerLimit(
    kind="keep_all_if_above", value=("num_hidden_groups", 1), why="layers find their group by the number of layers"
)

ENTRIES: tuple[Architecture, ...] = (
    *decoder("bert", prefixes=("encoder.layer.", "bert.encoder.layer.")),
    *encoder("roberta", "xlm-roberta", outer="roberta"),
    *encoder("electra", outer="electra"),
    *encoder("camembert", "xlm-roberta-xl", "xmod", outer="roberta"),
    *encoder("ernie", outer="ernie"),
    *encoder("data2vec-text", outer="data2vec_text"),
    *encoder("roberta-prelayernorm", outer="roberta_prelayernorm"),
    *encoder("roc_bert", outer="roc_bert"),
    *encoder("roformer", outer="roformer"),
    *encoder("megatron-bert", outer="bert"),
    *encoder("rembert", outer="rembert"),
    *encoder("bert-generation", outer="bert"),
    *encoder("esm", outer="esm"),
    *encoder("layoutlm", outer="layoutlm"),
    *encoder("splinter", outer="splinter"),
    *encoder("deberta", outer="deberta", fields=keep("pos_att_type")),
    *encoder("deberta-v2", outer="deberta", fields=keep("pos_att_type"), limits=(_DEBERTA_CONV,)),
    *encoder("mpnet", outer="mpnet"),
    *chain.from_iterable(
        encoder(name, outer=name)
        for name in (
            "convbert",
            "nystromformer",
            "ibert",
            "lilt",
            "layoutlmv3",
            "markuplm",
            "luke",
            "tapas",
            "visual_bert",
            "fnet",
            "mobilebert",
        )
    ),
    *encoder("squeezebert", outer="transformer", inner="encoder.layers."),
    *encoder("big_bird", outer="bert"),
    *decoder(
        "jina_embeddings_v3", prefixes=("roberta.encoder.layers.", "encoder.layers.", "roberta.layers.", "layers.")
    ),
    *decoder("gte", prefixes=vit_prefixes("gte")),
    *decoder("eurobert"),
    *encoder("longformer", outer="longformer"),
    *encoder("distilbert", outer="distilbert", inner="transformer.layer.", count_key="n_layers", aliases=ALIAS),
    *encoder("xlnet", outer="transformer", inner="layer.", count_key="n_layer", aliases=ALIAS),
    # The layers are parallel lists of their parts.
    *encoder(
        "xlm",
        "flaubert",
        outer="transformer",
        inner="attentions.",
        count_key="n_layers",
        aliases=ALIAS,
        beside=("layer_norm1.", "ffns.", "layer_norm2."),
    ),
    *decoder(
        "modernbert",
        "modernbert-decoder",
        patterns=(_MODERNBERT,),
        absent_in_first=("attn_norm.weight", "attn_norm.bias"),
    ),
    *decoder(
        "nomic_bert",
        aliases=("n_layer",),
        prefixes=("nomic_bert.encoder.layers.", "nomic_bert.layers.", "encoder.layers.", "layers."),
        patterns=(),
    ),
    *decoder(
        "albert", prefixes=("albert.encoder.albert_layer_groups.",), stored_layers=False, limits=(_ALBERT_GROUPS,)
    ),
)
