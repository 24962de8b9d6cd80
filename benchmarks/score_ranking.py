"""The log-likelihood of every item of ml-100k for a user, by the trie and by teacher forcing of every item's code.

Items have semantic codes: residual k-means on a factorisation of the interactions, and a token that tells apart what shares
all clusters. The input is a user's history as codes; the model is a T5 with random weights. Teacher forcing runs the encoder
once for a user and the decoder on batches of items. Both give the same scores. Run: ``python benchmarks/score_ranking.py``
"""

import argparse
from collections import defaultdict
from itertools import count

import numpy as np
import torch
from recbole.data import create_dataset
from recbole.utils import init_seed
from scipy.sparse.linalg import svds
from sklearn.cluster import KMeans
from timing import in_turn, quotients, row, write
from transformers import T5Config, T5ForConditionalGeneration

from recbole_persona.config import Config
from recbole_persona.lm.ranking import score_items
from recbole_persona.lm.trie import Trie

PAD, END, LARGEST_ERROR = 0, 1, 1e-4


def semantic_codes(interactions, n_levels, n_clusters):
    """(I, n_levels + 1) codes of the columns of a sparse matrix, the first of which is the padding item."""
    vectors = svds(interactions[:, 1:].astype(float), k=32, random_state=0)[2].T
    clusters = []
    for _ in range(n_levels):
        found = KMeans(n_clusters, n_init=1, random_state=0).fit(vectors)
        clusters.append(found.labels_)
        vectors = vectors - found.cluster_centers_[found.labels_]
    codes, counts = np.stack(clusters, axis=1), defaultdict(count)
    last = [next(counts[code]) for code in map(tuple, codes.tolist())]  # how many before it share all clusters
    codes = np.concatenate([codes, np.array(last)[:, None]], axis=1)
    codes += 2 + n_clusters * np.arange(n_levels + 1)  # every level has tokens of its own
    return np.concatenate([np.full((1, n_levels + 1), -1), codes])


def teacher_forcing(model, codes, encoder_states, attention_mask, batch):
    """(B, I - 1) scores of items by their codes (I - 1, T), all of one length, one user after the other."""
    scores = []
    for states, mask in zip(encoder_states, attention_mask):
        own = []
        for labels in codes.split(batch):
            expanded = (states.expand(len(labels), -1, -1),)
            output = model(encoder_outputs=expanded, attention_mask=mask.expand(len(labels), -1), labels=labels)
            own.append(output.logits.log_softmax(dim=2).gather(2, labels.unsqueeze(2)).sum(dim=(1, 2)))
        scores.append(torch.cat(own))
    return torch.stack(scores)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--items", type=int, help="that are scored, the first ones; all without it")
    parser.add_argument("--history", type=int, default=50, help="items of a user's history at most")
    parser.add_argument("--clusters", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, help="of the model; what the codes need without it")
    parser.add_argument("--width", type=int, default=256, help="d_model; the feed-forward part is four times as wide")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128, help="items at a time in teacher forcing")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    init_seed(0, True)
    dataset = create_dataset(Config("BPR", "ml-100k", config_dict={"use_gpu": False, "state": "ERROR"}))
    codes = semantic_codes(dataset.inter_matrix(form="csr"), 3, arguments.clusters)
    vocabulary = arguments.vocabulary or int(codes.max()) + 1
    in_order = dataset.inter_feat.sort_values(["user_id", "timestamp"], kind="stable")
    users, items = in_order["user_id"].to_numpy(), in_order["item_id"].to_numpy()
    rows = [codes[items[users == user][-arguments.history :]].ravel() for user in range(1, arguments.users + 1)]
    longest = max(map(len, rows)) + 1
    inputs = torch.tensor([[*tokens, END, *[PAD] * (longest - 1 - len(tokens))] for tokens in rows])
    mask = (inputs != PAD).long()
    config = T5Config(
        vocab_size=vocabulary,
        d_model=arguments.width,
        d_ff=4 * arguments.width,
        d_kv=64,
        num_heads=arguments.width // 64,
        num_layers=arguments.layers,
        decoder_start_token_id=PAD,
    )
    model = T5ForConditionalGeneration(config).eval()
    codes = codes[: (arguments.items or len(codes) - 1) + 1]
    trie, labels, found = Trie.build(codes), torch.from_numpy(codes[1:]), {}

    def by_trie():
        found["trie"] = score_items(model, trie, input_ids=inputs, attention_mask=mask)[:, 1:]

    def one_by_one():
        states = model.encoder(inputs, attention_mask=mask)[0]
        found["teacher forcing"] = teacher_forcing(model, labels, states, mask, arguments.batch)

    with torch.no_grad():
        seconds = in_turn({"teacher forcing": one_by_one, "trie": by_trie}, arguments.repeats)
    error = (found["trie"] - found["teacher forcing"]).abs().max().item()
    if not error <= LARGEST_ERROR:
        raise SystemExit(f"The scores differ by {error:.1e}; equal up to {LARGEST_ERROR} they would be comparable.")
    sizes = {
        "data": "ml-100k",
        "users": len(inputs),
        "items": len(labels),
        "tokens of an input": inputs.shape[1],
        "tokens of a code": trie.longest,
        "inner nodes": int((trie.item == 0).sum()),
        "vocabulary": vocabulary,
        **{name: getattr(config, name) for name in ("d_model", "d_ff", "num_heads", "num_layers")},
        "items at a time in teacher forcing": arguments.batch,
        "largest difference of a score": error,
    }
    ratio = quotients(seconds["teacher forcing"], seconds["trie"])
    claim = "seconds of scoring all items, encoder included, at least 10"
    write(__file__, [row(claim, "teacher forcing in batches", ratio, arguments.repeats, sizes)])


if __name__ == "__main__":
    main()
