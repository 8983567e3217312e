"""The models that the benchmarks train, as fields of a Hugging Face config.json; all are Llamas."""

from typing import Any

Shape = dict[str, Any]


def llama(hidden: int, inner: int, layers: int, heads: int, key_value_heads: int, **more: Any) -> Shape:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        **more,
    }


# Some ten million parameters with a vocabulary of 32,000, so the output head is most of the arithmetic.
SMALL = llama(256, 688, 4, 4, 4)
TOY = llama(64, 192, 2, 4, 2, tie_word_embeddings=True)
# 510 M parameters with Llama 3's vocabulary of 128,256.
HALF_B = llama(1024, 4096, 24, 16, 8, tie_word_embeddings=True, rope_theta=500000.0)
# 1.24 B: Llama 3.2 1B.
ONE_B = llama(
    2048, 8192, 16, 32, 8,
    tie_word_embeddings=True,
    rope_theta=500000.0,
    max_position_embeddings=131072,
    rope_scaling={
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
)  # fmt: skip
