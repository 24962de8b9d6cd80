"""PeaPOD on weights that have learned English: a T5 in the folder that ``RECBOLE_PERSONA_T5`` names, whole and with LoRA."""

import os

import pytest
import torch
from recbole.data import create_dataset, data_preparation

from recbole_persona.config import Config
from recbole_persona.registry import get_model

FOLDER = os.environ.get("RECBOLE_PERSONA_T5")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="RECBOLE_PERSONA_T5 names no folder with a pretrained T5."),
]
torch.set_num_threads(1)
STEPS = 30
SETTINGS = {
    "backbone": FOLDER,
    "tasks": ["sequential", "explanation"],
    "MAX_ITEM_LIST_LENGTH": 5,
    "train_batch_size": 8,
    "use_gpu": False,
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
}


@pytest.mark.parametrize("adapt, rate", [("full", 1e-3), ("lora", 1e-2)])
def test_a_pretrained_model_learns_both_tasks(adapt, rate):
    lora = {"r": 8, "target_modules": ["q", "v"]} if adapt == "lora" else None
    config = Config("PeaPOD", "planted-personas", config_dict={**SETTINGS, "adapt": adapt, "lora": lora})
    loaders = data_preparation(config, create_dataset(config))
    torch.manual_seed(0)
    model = get_model("PeaPOD")(config, loaders[0]._dataset)
    optimiser = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], rate)
    losses = {0: [], 1: []}
    for step, batch in enumerate(loaders[0]):
        loss = model.calculate_loss(batch)
        losses[int(batch["task"][0])].append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step == STEPS:
            break
    for found in losses.values():
        third = len(found) // 3
        assert sum(found[-third:]) < 0.8 * sum(found[:third]), (adapt, losses)
    rows = loaders[2]._dataset[torch.arange(4)]
    model.eval()
    texts = model.generate(rows)
    assert len(texts) == 4 and all(isinstance(text, str) and text for text in texts)
    scores = model.full_sort_predict(rows).view(4, -1)
    assert (scores.isfinite().sum(dim=1) == config["n_beams"]).all()
