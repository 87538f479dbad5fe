"""llama.cpp (through llama-cpp-python's low-level API) behind the JSON lines of bench/requests.ts.

python llama_side.py <threads>; `model` of a request is a float32 GGUF file (gguf_f32.py).

As its own server decodes: up to `rows` sequences in one batch, a place that becomes free is filled at once. The prompt of
a group is computed once and copied (llama_memory_seq_cp); logits are asked for only where a token is sampled. A cache for
each sequence and flash attention were 6 % faster here (16 sequences, 100 + 24 tokens, one thread) than one cache for all,
which copies nothing but lets every token look at the others' places, and 10 % faster than without flash attention.
"""

import ctypes
import json
import sys
import time

import llama_cpp as llama

THREADS = int(sys.argv[1])
PROMPT_BATCH = 512

# Its messages would fill stderr.
silence = llama.llama_log_callback(lambda *_: None)
llama.llama_log_set(silence, ctypes.c_void_p(0))
llama.llama_backend_init()
models = {}


def model_of(path):
    if path not in models:
        models[path] = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
        if not models[path]:
            sys.exit(f"llama.cpp cannot load {path}")
    return models[path]


def context_of(model, rows, length):
    """@param length places of each sequence in the key/value cache"""
    p = llama.llama_context_default_params()
    p.n_seq_max = rows + 1  # one more keeps a prompt
    p.n_ctx = p.n_seq_max * length
    p.n_batch = p.n_ubatch = max(PROMPT_BATCH, rows)
    p.n_threads = p.n_threads_batch = THREADS
    p.kv_unified = False
    p.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
    p.no_perf = True
    return llama.llama_init_from_model(model, p)


def decode(context, batch, entries):
    """@param entries (token, position, sequence, wants logits), at most n_batch"""
    batch.n_tokens = len(entries)
    for i, (token, position, sequence, logits) in enumerate(entries):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, position, 1, sequence
        batch.logits[i] = logits
    if llama.llama_decode(context, batch) != 0:
        raise RuntimeError("llama_decode failed")


def sampler_of(temperature, seed):
    chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
    if temperature == 0:
        llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_greedy())
    else:
        llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_temp(temperature))
        llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_dist(seed))
    return chain


def rollout(r):
    rows, new, stops = r["rows"], r["maxNewTokens"], set(r["stopIds"])
    context = context_of(model_of(r["model"]), rows, max(map(len, r["prompts"])) + new)
    memory = llama.llama_get_memory(context)
    batch = llama.llama_batch_init(max(PROMPT_BATCH, rows), 0, 1)
    sampler = sampler_of(r["temperature"], r["seed"])
    holder = rows  # the sequence that keeps the prompt of the group now being handed out
    waiting = [(p, c) for p in range(len(r["prompts"])) for c in range(r["groupSize"])][::-1]
    outputs = {}
    places = [None] * rows  # (completion, ids so far, next token, its position)
    begin = time.perf_counter()
    while waiting or any(places):
        for s in range(rows):
            if places[s] is not None or not waiting:
                continue
            key = waiting.pop()
            prompt = r["prompts"][key[0]]
            if key[1] == 0:
                llama.llama_memory_seq_rm(memory, holder, -1, -1)
                for start in range(0, len(prompt) - 1, PROMPT_BATCH):
                    end = min(start + PROMPT_BATCH, len(prompt) - 1)
                    decode(context, batch, [(prompt[t], t, holder, False) for t in range(start, end)])
            llama.llama_memory_seq_cp(memory, holder, s, -1, -1)
            outputs[key] = []
            places[s] = (outputs[key], prompt[-1], len(prompt) - 1)
        live = [s for s in range(rows) if places[s] is not None]
        decode(context, batch, [(places[s][1], places[s][2], s, True) for s in live])
        for i, s in enumerate(live):
            ids, _, position = places[s]
            token = llama.llama_sampler_sample(sampler, context, i)
            ids.append(token)
            if token in stops or len(ids) == new:
                llama.llama_memory_seq_rm(memory, s, -1, -1)
                places[s] = None
            else:
                places[s] = (ids, token, position + 1)
    seconds = time.perf_counter() - begin
    llama.llama_sampler_free(sampler)
    llama.llama_batch_free(batch)
    llama.llama_free(context)
    completions = [outputs[key] for key in sorted(outputs)]
    return {"seconds": seconds, "tokens": sum(map(len, completions)), "completions": completions}


for line in sys.stdin:
    print(json.dumps(rollout(json.loads(line))), flush=True)
