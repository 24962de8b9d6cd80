"""Repairs of graph models: the few operations of dgl and torch_scatter that they use, on torch, and faiss in NCL.

Neither library keeps up with torch, so the models get a stand-in for the time of a call, and nobody else sees it.
"""

from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from scipy.sparse import coo_matrix

from recbole_persona.errors import UserError
from recbole_persona.upstream.repair import around, repair, standing_in, when_imported


class Graph:
    """A directed graph with typed edges: what KGAT asks of a ``dgl`` graph.

    Attributes:
        edges: source and target nodes, (2, E).
        edata: name -> value of each edge, (E,).
        size: number of nodes.
    """

    def __init__(self, edges, edata=None, size=None):
        self.edges = torch.stack(tuple(edges))  # (2, E)
        self.edata = edata if edata is not None else {}
        self.size = size if size is not None else int(self.edges.max()) + 1

    def filter_edges(self, predicate):
        """Positions of the edges for which ``predicate`` (of all edges at once) is true."""
        return predicate(SimpleNamespace(data=self.edata)).nonzero().flatten()

    def adjacency_matrix(self, transpose=False, scipy_fmt="coo"):
        """Number of edges from row to column; from column to row when transposed."""
        row, column = self.edges.flip(0).numpy() if transpose else self.edges.numpy()
        return coo_matrix((np.ones(len(row)), (row, column)), shape=(self.size, self.size)).asformat(scipy_fmt)


def edge_subgraph(graph, kept, preserve_nodes=True):
    """The graph of the edges at the positions ``kept``, over all nodes."""
    return Graph(graph.edges[:, kept], {name: value[kept] for name, value in graph.edata.items()}, graph.size)


def scatter_mean(src, index, dim_size=None, dim=0):
    """Mean of the rows of ``src`` (E, d) that share an ``index`` (E,); zeros where none does. (dim_size, d)."""
    size = dim_size if dim_size is not None else int(index.max()) + 1
    count = torch.bincount(index, minlength=size).unsqueeze(1)  # (dim_size, 1)
    return src.new_zeros(size, src.shape[1]).index_add(0, index, src) / count.clamp(min=1)


def scatter_softmax(src, index, dim=0):
    """Softmax of each column of ``src`` (E, d) over the rows that share an ``index`` (E,)."""
    groups = int(index.max()) + 1 if len(index) else 0
    places = index.unsqueeze(1).expand_as(src)
    top = src.new_full((groups, src.shape[1]), -torch.inf).scatter_reduce(0, places, src.detach(), "amax")
    raised = (src - top[index]).exp()
    return raised / src.new_zeros(groups, src.shape[1]).index_add(0, index, raised)[index]


dgl, torch_scatter = ModuleType("dgl"), ModuleType("torch_scatter")
dgl.graph, dgl.edge_subgraph = Graph, edge_subgraph
torch_scatter.scatter_mean, torch_scatter.scatter_softmax = scatter_mean, scatter_softmax


@repair("model/knowledge_aware_recommender/kgat.py:146", "KGAT needs dgl, which has no build for today's torch")
def kgat_without_dgl():
    def mend(kgat):
        @around(kgat.KGAT, "__init__")
        def init(upstream, self, config, dataset):
            with standing_in(dgl=dgl):
                upstream(self, config, dataset)

    when_imported("recbole.model.knowledge_aware_recommender.kgat", mend)


@repair("model/knowledge_aware_recommender/kgin.py:54", "KGIN and MCCLK need torch_scatter, which must be compiled")
def scatter_without_torch_scatter():
    def mend(module):
        @around(module.Aggregator, "forward")
        def forward(upstream, *args, **kwargs):
            with standing_in(torch_scatter=torch_scatter):
                return upstream(*args, **kwargs)

    for name in ("kgin", "mcclk"):
        when_imported(f"recbole.model.knowledge_aware_recommender.{name}", mend)


@repair("model/knowledge_aware_recommender/kgin.py:148", "KGIN and MCCLK drop edges at random when they score, too")
def edges_stay_when_scoring():
    def mend(module):
        @around(module.GraphConv, "edge_sampling")
        def edge_sampling(upstream, self, edge_index, edge_type, rate=0.5):
            return upstream(self, edge_index, edge_type, rate) if self.training else (edge_index, edge_type)

    for name in ("kgin", "mcclk"):
        when_imported(f"recbole.model.knowledge_aware_recommender.{name}", mend)


@repair("model/general_recommender/ncl.py:89", "NCL asks k-means for more clusters than there are users or items")
def ncl_clusters():
    def mend(ncl):
        @around(ncl.NCL, "run_kmeans")
        def run_kmeans(upstream, self, x):
            wished, self.k = self.k, min(self.k, len(x))
            try:
                return upstream(self, x)
            except ModuleNotFoundError as error:
                raise UserError("NCL clusters with faiss: pip install recbole_persona[faiss].") from error
            finally:
                self.k = wished

    when_imported("recbole.model.general_recommender.ncl", mend)


@repair("model/general_recommender/dgcf.py:51", "DGCF draws more items than there are when one batch holds all")
def dgcf_samples():
    def mend(dgcf):
        @around(dgcf, "sample_cor_samples")
        def sample_cor_samples(upstream, n_users, n_items, cor_batch_size):
            return upstream(n_users, n_items, min(n_users, n_items, cor_batch_size))

    when_imported("recbole.model.general_recommender.dgcf", mend)


class RelationMatrices:
    """``weight[relation]`` as matrices (N, d, d) that are never made: products go relation by relation.

    Stands for a tensor in the operations that RippleNet asks of it: ``view``, ``torch.bmm`` and ``torch.norm``.

    Attributes:
        weight: a row for each relation, (R, d * d).
        relation: (N,).
    """

    def __init__(self, weight, relation):
        self.weight, self.relation = weight, relation
        self.shape, self.device = (len(relation), weight.shape[1]), weight.device

    def view(self, *shape):
        return self

    def products(self, rows, transposed):
        """``rows`` (N, d), each times its matrix, or times its matrix transposed. (N, d)."""
        matrices = self.weight.view(len(self.weight), rows.shape[1], rows.shape[1])  # (R, d, d)
        counts = torch.bincount(self.relation, minlength=len(matrices)).tolist()
        order = self.relation.argsort(stable=True)
        grouped = zip(rows[order].split(counts), matrices.mT if transposed else matrices)
        return torch.cat([group @ matrix for group, matrix in grouped])[order.argsort()]

    def norm(self):
        """The Euclidean norm of all numbers in all N matrices."""
        return (
            (self.weight.square().sum(dim=1) * torch.bincount(self.relation, minlength=len(self.weight))).sum().sqrt()
        )

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        first, second = args[0], args[-1]
        if func is torch.norm:
            return first.norm()
        if func is torch.bmm and isinstance(first, cls):
            return first.products(second.squeeze(2), transposed=True).unsqueeze(2)  # (N, d, 1)
        if func is torch.bmm:
            return second.products(first.squeeze(1), transposed=False).unsqueeze(1)  # (N, 1, d)
        return NotImplemented


class RelationEmbedding(torch.nn.Embedding):
    """An embedding whose rows are square matrices."""

    def forward(self, relation):
        return RelationMatrices(self.weight, relation)


@repair(
    "model/knowledge_aware_recommender/ripplenet.py:180", "RippleNet copies a d x d matrix for each memory of each row"
)
def ripplenet_multiplies_by_relation():
    """At RecBole's defaults these are 4 GB and half a minute a batch; the products need none of them."""

    def mend(ripplenet):
        @around(ripplenet.RippleNet, "__init__")
        def init(upstream, self, config, dataset):
            upstream(self, config, dataset)
            weight = self.relation_embedding.weight.detach()
            self.relation_embedding = RelationEmbedding(*weight.shape, _weight=weight)

    when_imported("recbole.model.knowledge_aware_recommender.ripplenet", mend)
