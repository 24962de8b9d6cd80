"""BERTScore with an encoder from this machine: every token is matched with the most similar one of the other text.

Zhang et al., BERTScore: Evaluating Text Generation with BERT, ICLR 2020. The last layer, without idf weights and without
rescaling; values of two encoders cannot be compared.
"""

import numpy as np
import torch
from safetensors import SafetensorError
from torch.nn import functional as F

from recbole_persona.errors import UserError, one_sentence

LONGEST = 512  # tokens, where the encoder names no limit


class BertScore:
    """BERTScore by one encoder.

    Args:
        encoder: folder of a Hugging Face model, or an id that is in the local cache; nothing is downloaded.
        device: to compute on.

    Raises:
        UserError: there is no such encoder here, or it has no tokenizer that can pad.
    """

    def __init__(self, encoder, device="cpu"):
        from transformers import AutoModel, AutoTokenizer  # takes seconds, and only this metric needs it

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(encoder, local_files_only=True)
            model = AutoModel.from_pretrained(encoder, local_files_only=True)
        except (OSError, SafetensorError, ValueError) as error:
            raise UserError(
                f"bertscore_encoder names the folder of a Hugging Face encoder, or one in the local cache, and {encoder!r} "
                f"cannot be read: {one_sentence(error)}"
            ) from error
        if self.tokenizer.pad_token is None:
            raise UserError(f"The tokenizer of bertscore_encoder {encoder!r} has no padding token.")
        self.model = (model.get_encoder() if model.config.is_encoder_decoder else model).to(device).eval()
        most = getattr(model.config, "max_position_embeddings", None) or LONGEST
        self.longest, self.device = min(self.tokenizer.model_max_length, most), device

    @torch.no_grad()
    def __call__(self, hypotheses, references, batch_size=64) -> np.ndarray:
        """(n,) F values, -1 to 1; 0 where a text has no token."""
        values = np.zeros(len(hypotheses))
        order = np.argsort([len(one) + len(other) for one, other in zip(hypotheses, references)], kind="stable")
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            vectors, inside = self._encoded([hypotheses[row] for row in rows])
            wanted, inside_wanted = self._encoded([references[row] for row in rows])
            cosines = torch.einsum("bhd,brd->bhr", vectors, wanted)
            pairs = inside.unsqueeze(2) & inside_wanted.unsqueeze(1)
            cosines = cosines.masked_fill(~pairs, -2.0)
            precision = _mean(cosines.amax(dim=2), inside)
            recall = _mean(cosines.amax(dim=1), inside_wanted)
            both = inside.any(1) & inside_wanted.any(1) & (precision + recall != 0)
            score = torch.where(both, 2 * precision * recall / (precision + recall), 0.0)
            values[rows] = score.double().cpu().numpy()
        return values

    def _encoded(self, texts):
        """Unit vectors (B, L, d) of the tokens, and a mask (B, L) of those that are text."""
        batch = self.tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self.longest,
            return_tensors="pt",
            return_special_tokens_mask=True,
        )
        special = batch.pop("special_tokens_mask").bool()
        inside = batch["attention_mask"].bool() & ~special
        if inside.shape[1] == 0:  # a tokenizer without special tokens, and no text
            return torch.zeros(len(texts), 1, 1, device=self.device), torch.zeros(
                len(texts), 1, dtype=torch.bool, device=self.device
            )
        found = self.model(
            input_ids=batch["input_ids"].to(self.device), attention_mask=batch["attention_mask"].to(self.device)
        )
        return F.normalize(found.last_hidden_state.float(), dim=-1), inside.to(self.device)


def _mean(values, inside):
    """(B,) mean of (B, L) over the tokens inside."""
    return values.masked_fill(~inside, 0.0).sum(1) / inside.sum(1).clamp(min=1)
