"""FuxiCTR's DIN in an environment of its own: trains on given batches for every line on standard input.

Started by ``din_training.py``: ``python peer_fuxictr.py BATCHES SIZES``, a file of numpy arrays and a JSON object. First
answer: ``ready``; then, for each line, CPU seconds of a step (forward, backward, Adam) over all batches.
"""

import json
import os
import sys
import time

import numpy as np
import torch
from fuxictr.features import FeatureMap
from model_zoo.LongCTR.DIN.DIN import DIN


def model_of(sizes):
    features = FeatureMap("benchmark", ".")
    item = {"source": "item", "type": "categorical", "vocab_size": sizes["n_items"], "padding_idx": 0}
    item["embedding_dim"] = sizes["embedding_size"]
    features.features["item_id"] = item
    features.labels = ["label"]
    return DIN(
        features,
        dnn_hidden_units=sizes["mlp_hidden_size"],
        dnn_activations="Dice",
        attention_hidden_units=sizes["mlp_hidden_size"],
        attention_hidden_activations="Sigmoid",
        embedding_dim=sizes["embedding_size"],
        learning_rate=sizes["learning_rate"],
        optimizer="adam",
        loss="binary_crossentropy",
        metrics=["AUC"],
        verbose=0,
        model_root=".",
    )


def batches_of(file):
    """What FuxiCTR's own loader makes: histories as long as the longest of the batch, the target behind each."""
    arrays = np.load(file)
    for history, target, label in zip(*(arrays[name] for name in ("history", "target", "label"))):
        history = history[:, : int((history > 0).sum(axis=1).max())]
        items = torch.from_numpy(np.hstack([history, target[:, None]]).flatten())
        yield {"label": torch.from_numpy(label)}, {"item_id": items}, torch.from_numpy((history > 0).astype(np.float32))


def main(file, sizes):
    answers = os.dup(1)
    os.dup2(2, 1)  # what FuxiCTR prints must not mix with the answers
    torch.set_num_threads(1)
    batches, model = list(batches_of(file)), model_of(json.loads(sizes))
    model.train()
    os.write(answers, b"ready\n")
    while sys.stdin.readline():
        start = time.process_time()
        for batch in batches:
            model.optimizer.zero_grad()
            loss = model.compute_loss(model.forward(batch), model.get_labels(batch))
            loss.backward()
            model.optimizer.step()
        os.write(answers, f"{(time.process_time() - start) / len(batches)}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
