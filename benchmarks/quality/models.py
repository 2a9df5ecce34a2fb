"""The models trained here, each another family, depth, width or tokenisation.

Those `aside` are looked at once, at the end: nothing is chosen by them.
"""

from dataclasses import dataclass

from transformers import BertConfig, GPT2Config, GPTNeoXConfig, LlamaConfig, Olmo2Config, PreTrainedConfig, Qwen2Config


@dataclass(frozen=True)
class Spec:
    """What is trained: a shape, a tokenisation, and how long."""

    config: PreTrainedConfig
    tokenisation: str
    context: int
    tokens: int
    seed: int
    peak: float = 1.5e-3
    aside: bool = False
    masked: bool = False


def llama_like(kind: type[PreTrainedConfig], layers: int, width: int, heads: int, vocabulary: int, **more: object):
    return kind(
        num_hidden_layers=layers,
        hidden_size=width,
        intermediate_size=-(-width * 8 // 3 // 16) * 16,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        vocab_size=vocabulary,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=0,
        **{"pad_token_id": None, "rms_norm_eps": 1e-5, **more},
    )


SPECS = {
    "gpt2-16": Spec(
        GPT2Config(
            n_layer=16, n_embd=128, n_head=4, n_positions=128, vocab_size=2048, bos_token_id=0, eos_token_id=0,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        ),
        "pieces", context=128, tokens=12_000_000, seed=1,
    ),
    "llama-24": Spec(
        llama_like(LlamaConfig, 24, 64, 4, 2048), "pieces", context=128, tokens=20_000_000, seed=2
    ),
    "neox-14": Spec(
        GPTNeoXConfig(
            num_hidden_layers=14, hidden_size=96, intermediate_size=384, num_attention_heads=4, vocab_size=256,
            max_position_embeddings=192, use_parallel_residual=True, bos_token_id=0, eos_token_id=0,
        ),
        "bytes", context=192, tokens=20_000_000, seed=3,
    ),
    "bert-12": Spec(
        BertConfig(
            num_hidden_layers=12, hidden_size=96, intermediate_size=384, num_attention_heads=4, vocab_size=257,
            max_position_embeddings=96, type_vocab_size=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            initializer_range=0.06,
        ),
        "bytes", context=96, tokens=20_000_000, seed=4, peak=1e-3, masked=True,
    ),
    "olmo2-14": Spec(
        llama_like(Olmo2Config, 14, 64, 4, 256), "bytes", context=128, tokens=20_000_000, seed=5, aside=True
    ),
    "qwen2-18": Spec(
        llama_like(Qwen2Config, 18, 72, 6, 256, tie_word_embeddings=True),
        "bytes", context=128, tokens=20_000_000, seed=6, aside=True,
    ),
}  # fmt: skip
TINY = Spec(llama_like(LlamaConfig, 6, 32, 4, 256), "bytes", context=128, tokens=20_480, seed=0)
MASK = 256  # bert-12's extra entry
