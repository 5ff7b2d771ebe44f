"""Makes a tiny Llama without any hub, `python model.py FOLDER TOKENS`: weights are made up when it is loaded.

A token is a printable character, so every token that the model says is text at once and an event of its stream.
A token's keys and values take 512 bytes.
"""

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

LONGEST = 16384
SPECIAL = ("<s>", "</s>", "<unk>")


def main(folder: Path, vocabulary_size: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # The byte-level alphabet writes a space as U+0120.
    tokens = [*SPECIAL, *map(chr, range(33, 127)), "\u0120"]
    tokens += [f"w{number}" for number in range(len(tokens), vocabulary_size)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {"bos_token_id": 0, "eos_token_id": 1}
    files = {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "model_max_length": LONGEST,
            "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
        },
        "generation_config.json": ids,
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "vocab_size": vocabulary_size,
            "max_position_embeddings": LONGEST,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "hidden_act": "silu",
            **ids,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
