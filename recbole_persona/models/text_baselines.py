"""Two systems that learn nothing and write sentences of the training part: what a table of explanations is read against.

Both are sequential models, as language models are, so that they share the split and the held-out rows of these; they recommend
what is popular.
"""

import numpy as np
import scipy.sparse as sp
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.preprocessing import normalize

from recbole_persona.data.texts import text_store
from recbole_persona.data.training_part import training_interactions
from recbole_persona.data.words import words
from recbole_persona.errors import UserError


class Repeater(SequentialRecommender):
    """Learns nothing: all that it does follows from the training part. It reads ``explanation_field``.

    Raises:
        UserError: no column of texts, or no text in the training part.
    """

    input_type = InputType.POINTWISE
    reads_fields = ("explanation_field",)
    config_defaults = {"train_neg_sample_args": None}

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        config["epochs"] = 1  # as RecBole's trainer of such models has it
        counts = np.bincount(dataset.inter_matrix().col, minlength=self.n_items)
        self.register_buffer("popularity", torch.from_numpy(counts).float())
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def calculate_loss(self, interaction):
        """0, with a gradient of 0 for the optimiser."""
        return 0 * self.nothing.sum()

    def predict(self, interaction):
        """(B,) training interactions of the items."""
        return self.popularity[interaction[self.ITEM_ID]]

    def full_sort_predict(self, interaction):
        """(B * I,) training interactions of all items."""
        return self.popularity.repeat(len(interaction))


class ConstantSentence(Repeater):
    """One sentence for everybody: the training sentence with the largest mean cosine of word counts to all of them."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        _, _, places, self.texts = training_texts(config, dataset, type(self).__name__)
        self.sentence = self.texts[int(places[medoid(self.texts[places])])]

    def generate(self, interaction, task="explanation") -> list[str]:
        """A text for every row."""
        return [self.sentence] * len(interaction)


class NearestReview(Repeater):
    """What somebody else wrote about the item: of its training sentences that of the most similar user.

    Users are as similar as all that they wrote (cosine of TF-IDF of their words); where several are, it is the sentence
    that stands first in the data. An item of which nobody wrote gets the user's own sentence that is most like all of the
    user's, and where there is none, the sentence of :class:`ConstantSentence`.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        users, items, self.places, self.texts = training_texts(config, dataset, type(self).__name__)
        self.users, sentences = users, self.texts[self.places]
        self.profiles = profiles(sentences, users, dataset.user_num)
        self.of_item, self.of_user = _Groups(items, self.n_items), _Groups(users, dataset.user_num)
        self.fallback = medoid(sentences)

    def generate(self, interaction, task="explanation") -> list[str]:
        """A text for every row."""
        users, items = (interaction[name].cpu().tolist() for name in (self.USER_ID, self.ITEM_ID))
        return self.texts[self.places[[self._nearest(user, item) for user, item in zip(users, items)]]]

    def _nearest(self, user, item) -> int:
        """The number of the training sentence."""
        rows = self.of_item[item]
        if len(rows):
            similar = self.profiles[self.users[rows]] @ self.profiles[[user]].T  # (rows, 1)
            return rows[similar.toarray().ravel().argmax()]
        own = self.of_user[user]
        return own[medoid(self.texts[self.places[own]])] if len(own) else self.fallback


def training_texts(config, dataset, name):
    """``(users, items, places, store)``: three arrays (R,) of the training rows with a text, and the texts.

    Raises:
        UserError: no column of texts, or no text in the training part.
    """
    field = config["explanation_field"]
    store = text_store(dataset, field, f"The model {name}")
    columns = training_interactions(dataset, dataset.uid_field, dataset.iid_field, field)
    written = store.filled(columns[2])
    if not len(written):
        raise UserError(
            f"{name} repeats training sentences, and the training part of {dataset.dataset_name!r} has no {field!r}."
        )
    return *(column[written] for column in columns), store


def medoid(sentences) -> int:
    """The number of the sentence with the largest mean cosine of word counts to all; the first of equals."""
    if not any(words(one) for one in sentences):
        return 0
    counts = normalize(CountVectorizer(analyzer=words).fit_transform(sentences))
    centre = np.asarray(counts.sum(0)).ravel()
    return int((counts @ centre).round(9).argmax())


def profiles(sentences, users, n_users) -> sp.csr_array:
    """(n_users, n_words) unit rows: TF-IDF of what every user wrote; a user who wrote no word has zeros."""
    if not any(words(one) for one in sentences):
        return sp.csr_array((n_users, 1))
    found = sp.csr_array(TfidfVectorizer(analyzer=words, norm=None).fit_transform(sentences))
    wrote = sp.coo_array((np.ones(len(users)), (users, np.arange(len(users)))), shape=(n_users, len(users))).tocsr()
    return sp.csr_array(normalize(wrote @ found))


class _Groups:
    """The numbers of the rows of every id, in their order."""

    def __init__(self, ids, number):
        self._order = np.argsort(ids, kind="stable")
        self._ends = np.bincount(ids, minlength=number).cumsum()

    def __getitem__(self, one) -> np.ndarray:
        return self._order[self._ends[one - 1] if one else 0 : self._ends[one]]
