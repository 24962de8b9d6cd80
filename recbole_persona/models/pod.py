"""POD: one soft prompt per task in front of the text, learned with the language model.

Li, Zhang, Chen, Prompt Distillation for Efficient LLM-based Recommendation, CIKM 2023. Formulas, and what the published
numbers rest on: docs/language_models.md.
"""

import torch
from torch import nn

from recbole_persona.models.language import LanguageRecommender


class POD(LanguageRecommender):
    """[prompt of the task; text of the prompt] -> code of an item, or a sentence.

    Config keys: ``task_tokens`` and those of :class:`LanguageRecommender`.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        size = self.backbone.dimension
        self.task_prompts = nn.Parameter(torch.empty(len(self.tasks), config["task_tokens"], size))
        bound = self.backbone.token_norm() * (3 / size) ** 0.5  # uniform, as long as tokens are
        nn.init.uniform_(self.task_prompts, -bound, bound)

    def context(self, interaction, task):
        """(B, P, d), the same for all users."""
        return self.task_prompts[self.tasks.index(task)].expand(len(interaction), -1, -1)
