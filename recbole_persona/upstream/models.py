"""Repairs of single models, by the module in which RecBole keeps them."""

import copy
from logging import getLogger
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from torch.nn import functional as F

from recbole_persona.errors import UserError
from recbole_persona.upstream.repair import around, repair, seen_as, standing_in, when_imported

_GENERAL, _SEQUENTIAL = "recbole.model.general_recommender", "recbole.model.sequential_recommender"
_CONTEXT, _KNOWLEDGE = "recbole.model.context_aware_recommender", "recbole.model.knowledge_aware_recommender"


@repair("model/abstract_recommender.py:67", "what KGAT learns, NNCF and SimpleX draw at random is in no checkpoint")
def nothing_left_out_of_checkpoints():
    def mend(name, attributes):
        def mend_class(module):
            @around(getattr(module, name), "__init__")
            def init(upstream, self, config, dataset):
                upstream(self, config, dataset)
                self.other_parameter_name = [*getattr(self, "other_parameter_name", ()), *attributes]

        return mend_class

    when_imported(f"{_KNOWLEDGE}.kgat", mend("KGAT", ["A_in"]))
    when_imported(f"{_GENERAL}.nncf", mend("NNCF", ["u_neigh", "i_neigh"]))
    when_imported(f"{_GENERAL}.simplex", mend("SimpleX", ["history_item_id", "history_item_len"]))


@repair("model/abstract_recommender.py:72", "embeddings kept for evaluation outlive the loading of other weights")
def stale_embeddings():
    """Models keep what they computed for all users and items in ``restore_*``; new weights make it void."""
    from recbole.model.abstract_recommender import AbstractRecommender

    def load_state_dict(self, *args, **kwargs):
        for name in [name for name in vars(self) if name.startswith("restore_")]:
            setattr(self, name, None)
        return super(AbstractRecommender, self).load_state_dict(*args, **kwargs)

    AbstractRecommender.load_state_dict = load_state_dict


@repair("model/abstract_recommender.py:270", "DSSM makes room for number columns that are not embedded")
def two_towers_count_what_is_embedded():
    from recbole.model.abstract_recommender import ContextRecommender

    @around(ContextRecommender, "__init__")
    def init(upstream, self, config, dataset):
        upstream(self, config, dataset)
        if self.double_tower:
            embedded = {*self.float_field_names, *self.float_seq_field_names}
            self.user_float_field_num = len(embedded.intersection(self.user_field_names))
            self.item_float_field_num = len(embedded.intersection(self.item_field_names))


@repair("model/context_aware_recommender/fwfm.py:61", "FwFM neither trains nor saves the weights of its field pairs")
def fwfm_owns_its_weights():
    def mend(fwfm):
        @around(fwfm.FwFM, "__init__")
        def init(upstream, self, config, dataset):
            upstream(self, config, dataset)
            weight = self.weight.detach()
            del self.weight
            self.weight = torch.nn.Parameter(weight)

    when_imported(f"{_CONTEXT}.fwfm", mend)


@repair("model/context_aware_recommender/kd_dagfm.py:44", "KD_DAGFM runs the text of the config key `teacher` as code")
def kd_dagfm_names_a_teacher():
    def mend(kd_dagfm):
        teachers = {name: getattr(kd_dagfm, name) for name in ("CrossNet", "CIN")}

        def teacher(name):
            if name not in teachers:
                raise UserError(f"There is no teacher {name!r}; set `teacher` to {' or '.join(teachers)}.")
            return teachers[name]

        kd_dagfm.eval = teacher

    when_imported(f"{_CONTEXT}.kd_dagfm", mend)


@repair("model/general_recommender/ldiffrec.py:232", "LDiffRec unpickles the item vectors beside the data set")
def ldiffrec_reads_numbers_alone():
    def load(file, **_):
        try:
            return np.load(file, allow_pickle=False)
        except ValueError as error:
            raise UserError(f"{file} holds no plain array of numbers; write it with numpy.save.") from error

    when_imported(f"{_GENERAL}.ldiffrec", lambda ldiffrec: setattr(ldiffrec, "np", seen_as(np, load=load)))


@repair("model/general_recommender/ldiffrec.py:70", "LDiffRec needs kmeans_pytorch, and regroups items at each start")
def ldiffrec_groups():
    def kmeans(X, num_clusters, distance, device):
        from sklearn.cluster import KMeans

        found = KMeans(num_clusters, n_init=10, random_state=0).fit(X.cpu().numpy())
        return torch.from_numpy(found.labels_).long(), torch.from_numpy(found.cluster_centers_)

    stand_in = ModuleType("kmeans_pytorch")
    stand_in.kmeans = kmeans

    def mend(ldiffrec):
        @around(ldiffrec.AutoEncoder, "__init__")
        def init(upstream, *args, **kwargs):
            with standing_in(kmeans_pytorch=stand_in):
                upstream(*args, **kwargs)

    when_imported(f"{_GENERAL}.ldiffrec", mend)


@repair("model/general_recommender/nncf.py:221", "NNCF's communities need python-louvain; networkx has them, too")
def nncf_communities():
    def best_partition(graph, resolution):
        from networkx.algorithms.community import louvain_communities

        groups = louvain_communities(graph, resolution=resolution, seed=0)
        return {node: number for number, group in enumerate(groups) for node in group}

    stand_in = ModuleType("community")
    stand_in.best_partition = best_partition

    def mend(nncf):
        @around(nncf.NNCF, "get_neigh_louvain")
        def get_neigh_louvain(upstream, self):
            with standing_in(community=stand_in):
                return upstream(self)

    when_imported(f"{_GENERAL}.nncf", mend)


@repair(
    "model/general_recommender/nncf.py:262",
    "NNCF's nearest neighbours: the name of the method is taken for a block size",
)
def nncf_neighbours():
    def mend(nncf):
        upstream = nncf.ComputeSimilarity

        class ComputeSimilarity:
            def __init__(self, dataMatrix, topk):
                self.arguments = dataMatrix, topk

            def compute_similarity(self, method):
                return upstream(*self.arguments, method=method).compute_similarity()

        nncf.ComputeSimilarity = ComputeSimilarity

    when_imported(f"{_GENERAL}.nncf", mend)


@repair("model/general_recommender/pop.py:47", "Pop counts an item once per batch, and sampled negatives with it")
def pop_counts_every_interaction():
    def mend(pop):
        @around(pop.Pop, "__init__")
        def init(upstream, self, config, dataset):
            upstream(self, config, dataset)
            self.negatives_label = config["LABEL_FIELD"] if _draws_negatives(config) else None

        @around(pop.Pop, "calculate_loss")
        def calculate_loss(upstream, self, interaction):
            if self.negatives_label in interaction:
                interaction = interaction[interaction[self.negatives_label] > 0]
            # the method adds one for each distinct item, and then takes the maximum; the rest is added here
            times = interaction[self.ITEM_ID].bincount(minlength=self.n_items)
            self.item_cnt += (times - 1).clamp(min=0).unsqueeze(1)  # (n_items, 1)
            return upstream(self, interaction)

    when_imported(f"{_GENERAL}.pop", mend)


def _draws_negatives(config):
    return (config["train_neg_sample_args"] or {}).get("distribution", "none") != "none"


@repair("model/general_recommender/random.py:42", "Random gives all users of a batch the same list")
def random_draws_for_every_user():
    def mend(random):
        @around(random.Random, "full_sort_predict")
        def full_sort_predict(upstream, self, interaction):
            # the numbers that the method would draw for one user after the other
            return torch.rand(len(interaction) * self.n_items).double()

    when_imported(f"{_GENERAL}.random", mend)


@repair("model/general_recommender/ract.py:76", "RaCT's lines for the log end in a traceback of the logging module")
def ract_speaks():
    def info(*parts):
        getLogger().info(" ".join(map(str, parts)))

    def mend(ract):
        # AbstractRecommender sets the attribute; this one stays
        ract.RaCT.logger = property(lambda self: SimpleNamespace(info=info), lambda self, value: None)

    when_imported(f"{_GENERAL}.ract", mend)


@repair("model/sequential_recommender/ksr.py:92", "KSR multiplies float32 by the float64 of its relation vectors")
def ksr_in_one_precision():
    def mend(ksr):
        @around(ksr.KSR, "__init__")
        def init(upstream, self, config, dataset):
            upstream(self, config, dataset)
            self.relation_Matrix = self.relation_Matrix.float()

    when_imported(f"{_SEQUENTIAL}.ksr", mend)


@repair("model/sequential_recommender/shan.py:179", "SHAN takes the padding for the latest items when it ranks all")
def shan_ranks_by_the_latest_items():
    def mend(shan):
        @around(shan.SHAN, "full_sort_predict")
        def full_sort_predict(upstream, self, interaction):
            seen = {self.USER_ID: interaction[self.USER_ID], self.ITEM_SEQ: interaction[self.INVERSE_ITEM_SEQ]}
            return upstream(self, seen)

    when_imported(f"{_SEQUENTIAL}.shan", mend)


@repair("utils/case_study.py:56", "full_sort_scores() leaves out `transform`, on which SHAN and BERT4Rec build")
def case_study_transforms():
    def mend(case_study):
        @around(case_study, "full_sort_scores")
        def full_sort_scores(upstream, uid_series, model, test_data, device=None):
            if not isinstance(test_data, FullSortEvalDataLoader):
                raise UserError(
                    "full_sort_scores and full_sort_topk rank all items, and these data are for another evaluation (mode in "
                    "eval_args is labeled, uniN or popN): make them with mode: full."
                )
            transformed = copy.copy(test_data)
            transformed._dataset = _Transformed(test_data)
            return upstream(uid_series, model, transformed, device)

    when_imported("recbole.utils.case_study", mend)


class _Transformed:
    """The data set of a loader, whose rows are what the loader makes of them."""

    def __init__(self, loader):
        self.loader, self.dataset = loader, loader._dataset

    def __getattr__(self, name):
        return getattr(self.dataset, name)

    def __getitem__(self, index):
        return self.loader.transform(self.dataset, self.dataset[index])


@repair("model/sequential_recommender/core.py:185", "CORE scores single items by another rule than all items")
def core_has_one_score():
    def mend(core):
        def predict(self, interaction):
            session = self.forward(interaction[self.ITEM_SEQ])  # (B, d), of length one
            item = F.normalize(self.item_embedding(interaction[self.ITEM_ID]), dim=-1)  # (B, d)
            return (session * item).sum(dim=1) / self.temperature  # (B,)

        core.CORE.predict = predict

    when_imported(f"{_SEQUENTIAL}.core", mend)


@repair("model/sequential_recommender/sine.py:25", "importing SINE makes all autograd of the process slow and strict")
def anomaly_detection_stays_off():
    """The package of sequential models imports SINE, which searches the gradients of every other model for NaN."""
    when_imported(f"{_SEQUENTIAL}.sine", lambda sine: torch.autograd.set_detect_anomaly(False))


@repair("model/sequential_recommender/gru4reccpr.py:482", "predict() of GRU4RecCPR and SASRecCPR is `assert False`")
def cpr_predicts():
    when_imported(f"{_SEQUENTIAL}.gru4reccpr", lambda module: setattr(module.GRU4RecCPR, "predict", _one_of_all))
    when_imported(f"{_SEQUENTIAL}.sasreccpr", lambda module: setattr(module.SASRecCPR, "predict", _one_of_all))


@repair(
    "model/sequential_recommender/gru4reccpr.py:272", "GRU4RecCPR and SASRecCPR re-rank 100 items, and fail on fewer"
)
def cpr_reranks_what_there_is():
    def mend(name):
        def around_init(module):
            @around(getattr(module, name), "__init__")
            def __init__(upstream, self, config, dataset):
                upstream(self, config, dataset)
                self.reranker_CAN_NUM = [min(number, self.n_items) for number in self.reranker_CAN_NUM]

        return around_init

    for name in ("GRU4RecCPR", "SASRecCPR"):
        when_imported(f"{_SEQUENTIAL}.{name.lower()}", mend(name))


@repair(
    "model/general_recommender/multivae.py:117",
    "auto-encoders index with a list where torch now wants a tuple",
)
def autoencoders_index_with_tuples():
    def mend(name):
        return lambda module: setattr(getattr(module, name), "predict", _one_of_all)

    for name in ("CDAE", "MacridVAE", "MultiDAE", "MultiVAE", "RaCT", "RecVAE"):
        when_imported(f"{_GENERAL}.{name.lower()}", mend(name))


def _one_of_all(self, interaction):
    """``predict`` of a model that scores all items at once anyhow."""
    item = interaction[self.ITEM_ID].unsqueeze(1)  # (B, 1)
    return self.full_sort_predict(interaction).view(len(item), -1).gather(1, item).squeeze(1)  # (B,)
