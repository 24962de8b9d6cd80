"""Every repair of RecBole is needed, and does what it says."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import recbole
import torch
from upstream_checks import CHECKS

import recbole_persona
from recbole_persona.registry import recbole_model_names
from recbole_persona.upstream import REPAIRS, applied, apply
from recbole_persona.upstream.graphs import Graph, RelationEmbedding, edge_subgraph, scatter_mean, scatter_softmax

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def ask():
    """``ask(mode, name)``: what a check says in a fork of the process of that mode; see ``upstream_forks``."""
    processes = {}

    def ask(mode, name):
        if mode not in processes:
            environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
            command = [sys.executable, Path(__file__).with_name("upstream_forks.py"), mode]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            processes[mode] = subprocess.Popen(command, text=True, env=environment, **pipes)
        print(name, file=processes[mode].stdin, flush=True)
        return json.loads(processes[mode].stdout.readline())

    yield ask
    for process in processes.values():
        process.communicate()


def test_every_repair_has_a_check():
    assert CHECKS.keys() == REPAIRS.keys() == applied()


@pytest.mark.parametrize("name", REPAIRS)
def test_with_the_repair(name, ask):
    assert ask("repaired", name) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", REPAIRS)
def test_without_the_repair(name, ask):
    fault = ask("without", name)
    assert fault is not None and "KeyError: '" + name not in fault


@pytest.mark.parametrize("name", REPAIRS)
def test_the_upstream_line_exists(name):
    file, line = REPAIRS[name].upstream.split(":")
    assert (Path(recbole.__file__).parent / file).read_text().splitlines()[int(line) - 1].strip()


def test_a_second_application_changes_nothing():
    from recbole.model.abstract_recommender import AbstractRecommender, ContextRecommender

    before = {**vars(AbstractRecommender), **{f"context.{k}": v for k, v in vars(ContextRecommender).items()}}
    apply()
    assert before == {**vars(AbstractRecommender), **{f"context.{k}": v for k, v in vars(ContextRecommender).items()}}
    assert recbole_persona.__version__


def test_scatter_against_loops():
    random = torch.Generator().manual_seed(0)
    source = torch.randn(50, 3, dtype=torch.float64, generator=random, requires_grad=True)
    index = torch.randint(0, 7, (50,), generator=random)
    mean, softmax = scatter_mean(src=source, index=index, dim_size=9, dim=0), scatter_softmax(source, index, dim=0)
    for group in range(9):
        members = (index == group).nonzero().flatten()
        wanted = source[members].mean(dim=0) if len(members) else torch.zeros(3, dtype=torch.float64)
        torch.testing.assert_close(mean[group], wanted)
        torch.testing.assert_close(softmax[members], source[members].softmax(dim=0))
    assert torch.autograd.gradcheck(lambda rows: scatter_mean(rows, index, 9), source)
    assert torch.autograd.gradcheck(lambda rows: scatter_softmax(rows, index), source)


def test_graph_against_loops():
    random = torch.Generator().manual_seed(1)
    source, target = torch.randint(0, 6, (2, 30), generator=random)
    graph = Graph((source, target))
    graph.edata["kind"] = torch.randint(0, 3, (30,), generator=random)
    kept = graph.filter_edges(lambda edge: edge.data["kind"] == 2)
    matrix = edge_subgraph(graph, kept, preserve_nodes=True).adjacency_matrix(transpose=False, scipy_fmt="coo")
    wanted = torch.zeros(graph.size, graph.size)
    for row, column, kind in zip(source, target, graph.edata["kind"]):
        wanted[row, column] += kind == 2
    assert (matrix.toarray() == wanted.numpy()).all()


def test_relation_matrices_against_torch():
    random = torch.Generator().manual_seed(2)
    weight = torch.randn(5, 16, dtype=torch.float64, generator=random, requires_grad=True)
    rows = torch.randn(40, 4, dtype=torch.float64, generator=random, requires_grad=True)
    relation = torch.randint(0, 4, (40,), generator=random)
    results = []
    for embedding in (RelationEmbedding(5, 16, _weight=weight), torch.nn.Embedding(5, 16, _weight=weight)):
        found = embedding(relation)
        matrices = found.view(-1, 4, 4)
        left, right = torch.bmm(matrices, rows.unsqueeze(2)), torch.bmm(rows.unsqueeze(1), matrices)
        norm = torch.norm(found, p=2)
        loss = (left.squeeze(2) * right.squeeze(1)).sum() + norm
        results.append([left, right, norm, *torch.autograd.grad(loss, [embedding.weight, rows])])
    for ours, torchs in zip(*results):
        torch.testing.assert_close(ours, torchs)


def test_the_page_has_them_all():
    """docs/upstream.md is as ``python docs/upstream.py`` writes it."""
    specification = importlib.util.spec_from_file_location("upstream_page", REPOSITORY / "docs" / "upstream.py")
    page = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(page)
    text = page.PAGE.read_text()
    assert page.repairs_table() in text
    for name in recbole_model_names():
        assert re.search(rf"^\| {name} \| .* \| (equal|within \de-(0[7-9]|1\d)) \|", text, re.M), name
