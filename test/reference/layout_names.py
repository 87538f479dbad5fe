"""Names of a Qwen2 with a tied head in the order of our packed layout (src/model/layout.ts), for the scripts beside it."""


def layout_names(num_layers: int) -> list[str]:
    names = ["model.embed_tokens.weight"]
    for i in range(num_layers):
        p = f"model.layers.{i}."
        names += [p + "input_layernorm.weight"]
        names += [p + f"self_attn.{m}_proj.weight" for m in "qkv"] + [p + f"self_attn.{m}_proj.bias" for m in "qkv"]
        names += [p + "self_attn.o_proj.weight", p + "post_attention_layernorm.weight"]
        names += [p + f"mlp.{m}_proj.weight" for m in ("gate", "up", "down")]
    return names + ["model.norm.weight"]
