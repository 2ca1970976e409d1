"""A transformer computed head by head with loops, from raw weights: every reader has an input of its own to add to.

The independent reference for edges between components. Norms, MLPs and the unembedding are the model's own modules;
attention, its weight layouts, rotary positions and grouped keys are written out here once more.
"""

import torch


def layout(model, i):
    """Norms, MLP, and q, k, v, o of every query head as (weight [d, D], bias [d]) of block i."""
    kind = model.config.model_type
    if kind == "gpt2":
        block = model.transformer.h[i]
        heads, d = model.config.n_head, model.config.n_embd // model.config.n_head
        w, b = block.attn.c_attn.weight.T, block.attn.c_attn.bias
        size = heads * d
        parts = [[(w[s * size + h * d : s * size + (h + 1) * d], b[s * size + h * d : s * size + (h + 1) * d])
                  for h in range(heads)] for s in range(3)]  # fmt: skip
        out = block.attn.c_proj
        return block.ln_1, block.ln_2, block.mlp, parts, out.weight.view(heads, d, -1), out.bias
    if kind == "gpt_neox":
        block = model.gpt_neox.layers[i]
        heads = model.config.num_attention_heads
        d = model.config.hidden_size // heads
        module = block.attention.query_key_value
        parts = [[], [], []]
        for h in range(heads):
            for s in range(3):
                rows = slice(h * 3 * d + s * d, h * 3 * d + (s + 1) * d)
                parts[s].append((module.weight[rows], module.bias[rows]))
        out = block.attention.dense
        norms = block.input_layernorm, block.post_attention_layernorm
        return *norms, block.mlp, parts, out.weight.T.reshape(heads, d, -1), out.bias
    block = model.model.layers[i]
    heads, groups = model.config.num_attention_heads, model.config.num_key_value_heads
    attention = block.self_attn
    d = attention.head_dim
    q, k, v = (m.weight.view(-1, d, m.weight.shape[1]) for m in (attention.q_proj, attention.k_proj, attention.v_proj))
    shared = [h * groups // heads for h in range(heads)]
    nothing = torch.zeros(d, dtype=q.dtype)
    parts = [
        [(q[h], nothing) for h in range(heads)],
        [(k[g], nothing) for g in shared],
        [(v[g], nothing) for g in shared],
    ]
    out = attention.o_proj.weight.T.reshape(heads, d, -1)
    zero = torch.zeros(out.shape[-1], dtype=q.dtype)
    if kind == "llama":
        return block.input_layernorm, block.post_attention_layernorm, block.mlp, parts, out, zero

    def mlp(x):
        return block.post_feedforward_layernorm(block.mlp(x))

    before = (same, same) if kind == "olmo2" else (block.input_layernorm, block.pre_feedforward_layernorm)
    return *before, mlp, parts, out, zero


def same(x):
    return x


def over_heads(model, i, letter, heads):
    """OLMo 2's norms over all queries and over all keys, here with a key head for every query head."""
    if model.config.model_type != "olmo2":
        return heads
    weight = getattr(model.model.layers[i].self_attn, f"{letter}_norm").weight.view(-1, heads[0].shape[-1])
    square = torch.stack([x.square().mean(-1, keepdim=True) for x in heads]).mean(0)
    return [x * (square + 1e-6).rsqrt() * weight[h * len(weight) // len(heads)] for h, x in enumerate(heads)]


def shares(model, i, heads):
    """What each head adds to the stream: its own part of the output of the norm behind attention, if there is one."""
    if model.config.model_type not in ("gemma2", "olmo2"):
        return heads
    norm = model.model.layers[i].post_attention_layernorm
    scale = (sum(heads.values()).square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    return {name: x * scale * norm.weight for name, x in heads.items()}


def rotated(x, config):
    """Rotary positions on the first part of the last axis (halves, not pairs), of float32 tables as in the models."""
    if config.model_type == "gpt2":
        return x
    rope = config.rope_parameters
    size = int(x.shape[-1] * rope.get("partial_rotary_factor", 1.0))
    frequency = 1.0 / rope["rope_theta"] ** (torch.arange(0, size, 2).float() / size)
    angle = torch.arange(x.shape[-2]).float()[:, None] * frequency.repeat(2)
    cos, sin = angle.cos().to(x), angle.sin().to(x)
    turning, rest = x[..., :size], x[..., size:]
    half = torch.cat([-turning[..., size // 2 :], turning[..., : size // 2]], -1)
    return torch.cat([turning * cos + half * sin, rest], -1)


def run(model, tokens, add=None, change=None, attend=None):
    """Logits [batch, length, V], what every source writes, and (q, k, v, pattern) of every head, as "a0.h1:attention".

    `add[destination]` is added to the stream as that reader sees it; `change(destination, written)` may give the same
    from what the sources wrote so far. `attend(head, pattern, v)` stands in for pattern @ v. Names are EAP-IG's.
    """
    kind, config = model.config.model_type, model.config
    parallel = kind == "gpt_neox" and config.use_parallel_residual
    if kind == "gpt2":
        stream = model.transformer.wte(tokens) + model.transformer.wpe(torch.arange(tokens.shape[1]))
    else:
        stream = model.get_input_embeddings()(tokens)
    written = {"input": stream}

    def seen(stream, destination):
        if add and destination in add:
            stream = stream + add[destination]
        extra = change(destination, written) if change else None
        return stream if extra is None else stream + extra

    length = tokens.shape[1]
    causal = torch.full((length, length), float("-inf"), dtype=stream.dtype).triu(1)
    for i in range(config.num_hidden_layers):
        norm, mid_norm, mlp, parts, out, bias = layout(model, i)
        every = [
            [norm(seen(stream, f"a{i}.h{h}<{letter}>")) @ w.T + b for h, (w, b) in enumerate(parts[s])]
            for s, letter in enumerate("qkv")
        ]
        every[0], every[1] = (over_heads(model, i, letter, every[s]) for s, letter in enumerate("qk"))
        heads = {}
        for h in range(len(out)):
            q, k, v = (side[h] for side in every)
            q, k = rotated(q, config), rotated(k, config)
            scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
            cap = getattr(config, "attn_logit_softcapping", None)
            pattern = ((cap * (scores / cap).tanh() if cap else scores) + causal).softmax(-1)
            name = f"a{i}.h{h}"
            heads[name] = (pattern @ v if attend is None else attend(name, pattern, v)) @ out[h]
            written[f"{name}:attention"] = (q, k, v, pattern)
        heads = shares(model, i, heads)
        attention = sum(heads.values()) + bias
        if not parallel:
            written |= heads
        mlp_out = mlp(mid_norm(seen(stream if parallel else stream + attention, f"m{i}")))
        written |= heads | {f"m{i}": mlp_out}
        stream = stream + attention + mlp_out
    stream = seen(stream, "logits")
    final = {"gpt2": lambda: model.transformer.ln_f, "gpt_neox": lambda: model.gpt_neox.final_layer_norm}
    norm = final.get(kind, lambda: model.model.norm)()
    return model.lm_head(norm(stream)), written
