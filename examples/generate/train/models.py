"""The models that are trained: transformers' DeepSeek-V3, and the same with its attention exchanged.

All have the same number of layers, width and feed-forward parts; heads and head sizes are chosen so that an attention
of each kind has about as many parameters as the others.
"""

import torch
from torch import nn
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM
from transformers.models.deepseek_v3.modeling_deepseek_v3 import apply_rotary_pos_emb_interleave

HIDDEN = 128
CONTEXT = 512
HEAD = 40  # values a head of MHA and GQA

# kind -> (heads, key and value heads); MLA has no key and value heads of its own.
HEADS = {"mla": (4, 4), "mha": (4, 4), "gqa": (6, 2), "mqa": (7, 1)}


def config_of(kind: str) -> DeepseekV3Config:
    heads, _ = HEADS[kind]
    return DeepseekV3Config(
        vocab_size=256, hidden_size=HIDDEN, num_hidden_layers=4, num_attention_heads=heads, num_key_value_heads=heads,
        q_lora_rank=96, kv_lora_rank=48, qk_nope_head_dim=32, v_head_dim=48,
        qk_rope_head_dim=16 if kind == "mla" else HEAD,  # what the rotary embedding of the model turns
        intermediate_size=384, first_k_dense_replace=1, moe_intermediate_size=96, n_shared_experts=1, n_routed_experts=16,
        num_experts_per_tok=2, n_group=4, topk_group=2, norm_topk_prob=True, routed_scaling_factor=2.0, num_mtp_layers=0,
        max_position_embeddings=CONTEXT, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        initializer_range=0.05, rms_norm_eps=1e-6, bos_token_id=None, eos_token_id=None, use_cache=False)


class GroupedQueryAttention(nn.Module):
    """MHA, GQA or MQA where DeepseekV3Attention stood; whole sequences only, without a cache."""

    def __init__(self, heads: int, kv_heads: int):
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads
        self.q_proj = nn.Linear(HIDDEN, heads * HEAD, bias=False)
        self.k_proj = nn.Linear(HIDDEN, kv_heads * HEAD, bias=False)
        self.v_proj = nn.Linear(HIDDEN, kv_heads * HEAD, bias=False)
        self.o_proj = nn.Linear(heads * HEAD, HIDDEN, bias=False)

    def forward(self, hidden_states, position_embeddings, **_):
        batch, length, _ = hidden_states.shape

        def by_head(projected, heads):
            return projected.view(batch, length, heads, HEAD).transpose(1, 2)

        q = by_head(self.q_proj(hidden_states), self.heads)
        k = by_head(self.k_proj(hidden_states), self.kv_heads)
        v = by_head(self.v_proj(hidden_states), self.kv_heads)
        q, k = apply_rotary_pos_emb_interleave(q, k, *position_embeddings)
        k, v = (each.repeat_interleave(self.heads // self.kv_heads, dim=1) for each in (k, v))
        o = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(o.transpose(1, 2).reshape(batch, length, -1)), None


def make(kind: str, seed: int) -> DeepseekV3ForCausalLM:
    torch.manual_seed(seed)
    config = config_of(kind)
    model = DeepseekV3ForCausalLM(config)
    if kind != "mla":
        for layer in model.model.layers:
            layer.self_attn = GroupedQueryAttention(*HEADS[kind])
            for linear in layer.self_attn.children():
                nn.init.normal_(linear.weight, std=config.initializer_range)
    return model


def cached_values(kind: str) -> int:
    """Values that a cache holds a token and layer."""
    config = config_of(kind)
    if kind == "mla":
        return config.kv_lora_rank + config.qk_rope_head_dim
    return 2 * HEADS[kind][1] * HEAD
