"""Safe files: every tree comes back as it was, a write is all or nothing, and a damaged file is a sentence."""

import json
import os
import resource
import signal

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from resume_runs import same
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import recbole_persona  # noqa: F401
from recbole_persona.errors import UserError
from recbole_persona.upstream.files import atomic_path, load_tree, remove_leftovers, save_tree, write_text

REALS = [
    torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32,
    torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
]  # fmt: skip


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(REALS))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    seed = draw(st.integers(0, 2**31))
    content = torch.randint(0, 256, (*shape, dtype.itemsize), generator=torch.Generator().manual_seed(seed))
    tensor = content.to(torch.uint8).view(dtype).reshape(shape) if dtype != torch.bool else content[..., 0] > 127
    if draw(st.booleans()) and tensor.dim() > 1:
        tensor = tensor.transpose(0, 1)
    if draw(st.booleans()) and tensor.dim() and tensor.shape[0] > 1:
        tensor = tensor[::2]
    return tensor


@st.composite
def arrays(draw):
    kinds = ["?", "i1", "u2", "<i4", ">i4", "u8", "f2", "f4", ">f8", "c8", "c16", "U3", "O"]
    dtype = np.dtype(draw(st.sampled_from(kinds)))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=2)))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 9, shape)
    array = np.asarray(values).astype(dtype)
    return array.T if draw(st.booleans()) else array


@st.composite
def sparse_matrices(draw):
    form = draw(st.sampled_from(["csr", "csc", "coo", "lil", "dok", "bsr", "dia"]))
    dense = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 3, (draw(st.integers(1, 4)), 3))
    dtype = draw(st.sampled_from([np.float32, np.float64, np.int64, bool]))
    kind = draw(st.sampled_from(["matrix", "array"]))
    return getattr(scipy.sparse, f"{form}_{kind}")(dense.astype(dtype))


keys = st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.tuples(st.integers(), st.text()))
plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())
leaves = st.one_of(
    plain, tensors(), arrays(), sparse_matrices(), st.sampled_from([torch.float32, torch.bfloat16, torch.device("cpu")])
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
        st.sets(st.integers() | st.text(), max_size=4),
        st.frozensets(st.integers(), max_size=4),
    ),
    max_leaves=12,
)


def same_tree(a, b, where="tree"):
    """As ``same``, where byte order and sparse matrices may be told apart."""
    if isinstance(a, np.ndarray):
        assert isinstance(b, np.ndarray) and b.dtype == a.dtype.newbyteorder("=") and a.shape == b.shape, where
        assert np.array_equal(a, b), where
    elif scipy.sparse.issparse(a):
        assert type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape, where
        assert np.array_equal(a.toarray(), b.toarray()), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            same_tree(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert type(a) is type(b) and len(a) == len(b), where
        for pair in zip(a, b):
            same_tree(*pair, where)
    elif isinstance(a, torch.Tensor) and a.dtype == torch.bfloat16:
        same(a.contiguous().view(torch.int16), b.view(torch.int16), where)
    else:
        same(a, b, where)


@settings(max_examples=150, deadline=None)
@given(tree=trees)
def test_every_tree_comes_back(tree, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "tree.safetensors"
    save_tree(tree, file)
    same_tree(tree, load_tree(file))


def test_shared_and_partial_memory(tmp_path):
    whole = torch.arange(12.0)
    tree = {"whole": whole, "again": whole, "part": whole[3:6], "wide": whole[:1].expand(5), "state": {0: whole[::3]}}
    save_tree(tree, tmp_path / "t")
    same(tree, load_tree(tmp_path / "t"), "tree")


def test_sparse_tensors_keep_the_order_of_their_entries(tmp_path):
    unsorted = torch.sparse_coo_tensor(torch.tensor([[1, 0, 1], [0, 1, 0]]), torch.tensor([1.0, 2.0, 3.0]), (2, 2))
    save_tree([unsorted, unsorted.to_sparse_csr()], tmp_path / "t")
    coo, csr = load_tree(tmp_path / "t")
    assert coo._indices().tolist() == [[1, 0, 1], [0, 1, 0]] and not coo.is_coalesced()
    assert torch.equal(csr.to_dense(), unsorted.to_dense())


def test_unsorted_scipy_rows_stay_unsorted(tmp_path):
    matrix = scipy.sparse.csr_matrix((np.array([1.0, 2.0]), np.array([2, 0]), np.array([0, 2])), shape=(1, 3))
    save_tree(matrix, tmp_path / "t")
    assert load_tree(tmp_path / "t").indices.tolist() == [2, 0]


def test_numpy_scalars_parameters_modules_and_enums(tmp_path):
    from recbole.utils import EvaluatorType

    layer = torch.nn.Linear(2, 3)
    tree = {
        "score": np.float64(0.1), "count": np.int32(3), "flag": np.bool_(True), "kind": EvaluatorType.RANKING,
        "frozen": torch.nn.Parameter(torch.arange(3), requires_grad=False), "layer": layer,
    }  # fmt: skip
    save_tree(tree, tmp_path / "t")
    back = load_tree(tmp_path / "t")
    assert back["score"] == 0.1 and back["count"] == 3 and back["flag"] is True
    assert back["kind"] is EvaluatorType.RANKING
    assert isinstance(back["frozen"], torch.nn.Parameter) and not back["frozen"].requires_grad
    layer.load_state_dict(back["layer"])


def test_weights_have_their_own_names_for_everybody(tmp_path):
    weight = torch.randn(3, 2)
    tree = {"state_dict": {"user_embedding.weight": weight}, "optimizer": {"state": [weight.clone()]}}
    save_tree(tree, tmp_path / "m")
    assert torch.equal(load_file(tmp_path / "m")["user_embedding.weight"], weight)
    assert "optimizer.state[0]" in load_file(tmp_path / "m")


def test_tied_weights_are_stored_once(tmp_path):
    table, head = torch.nn.Embedding(500, 40), torch.nn.Linear(40, 500, bias=False)
    head.weight = table.weight
    model = torch.nn.ModuleList([table, head])
    save_tree({"state_dict": dict(model.state_dict()), "kept": [table.weight, table.weight.data[:250]]}, tmp_path / "m")
    stored = load_file(tmp_path / "m")
    assert {name: tuple(value.shape) for name, value in stored.items()} == {"0.weight": (500, 40), "kept[1]": (250, 40)}
    back = load_tree(tmp_path / "m")
    assert list(back["state_dict"]) == ["0.weight", "1.weight"]
    assert all(torch.equal(value, table.weight) for value in [*back["state_dict"].values(), back["kept"][0]])
    assert torch.equal(back["kept"][1], table.weight[:250])


def test_the_same_memory_read_in_two_ways_is_two_tensors(tmp_path):
    square = torch.arange(9.0).view(3, 3)
    pairs = torch.view_as_complex(torch.arange(8.0).view(4, 2))
    tree = [square, square.T, square.view(torch.int32), pairs.imag, pairs.conj().imag]  # the last is negated when read
    save_tree(tree, tmp_path / "t")
    same([*tree[:-1], -pairs.imag], load_tree(tmp_path / "t"), "tree")


def test_memory_that_is_used_again_is_not_taken_for_the_same_tensor(tmp_path):
    """Arrays in another byte order are copied to be written, and the copies are freed one after the other."""
    tree = [np.full((2, 3), number, dtype=">f4") for number in range(20)]
    tree += [np.full((3, 2), number, dtype="f4").T for number in range(20)]
    save_tree(tree, tmp_path / "t")
    same_tree(tree, load_tree(tmp_path / "t"))


def test_files_that_hold_a_tied_table_twice_are_read(tmp_path):
    weights = {"0.weight": torch.randn(4, 3), "1.weight": torch.randn(4, 3)}
    inner = {"dict": [[name, {"tensor": name}] for name in weights]}
    described = {"format": "recbole_persona.tree/1", "tree": json.dumps({"dict": [["state_dict", inner]]})}
    save_file(weights, tmp_path / "m", metadata=described)
    same(load_tree(tmp_path / "m")["state_dict"], weights, "weights")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (object(), "object"),
        (np.longdouble(1), "longdouble"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "datetime64"),
        (np.zeros(2, dtype=[("a", "i4")]), "array of"),
        (signal.SIGINT, "Signals"),
        (b"bytes", "bytes"),
        (lambda: 0, "function"),
    ],
)
def test_what_has_no_safe_form_is_named(value, kind, tmp_path):
    with pytest.raises(TypeError, match=rf"a\.b\[1\] is an? .*{kind}"):
        save_tree({"a": {"b": [0, value]}}, tmp_path / "t")
    assert not list(tmp_path.iterdir())


def test_an_exception_in_the_middle_leaves_the_folder_as_it_was(tmp_path):
    file = tmp_path / "t"
    save_tree({"a": 1}, file)
    before = file.read_bytes()
    with pytest.raises(KeyboardInterrupt), atomic_path(file) as temporary:
        with open(temporary, "wb") as half:
            half.write(b"half")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["t"] and file.read_bytes() == before


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_have_the_rights_that_the_user_wants(umask, tmp_path):
    kept = os.umask(umask)
    try:
        save_tree({"a": torch.ones(2)}, tmp_path / "t")
        write_text(tmp_path / "text", "ä")
    finally:
        os.umask(kept)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~umask}


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    if (child := os.fork()) == 0:
        with atomic_path(tmp_path / "t"):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    save_tree({}, tmp_path / "other")
    assert len(list(tmp_path.iterdir())) == 2
    remove_leftovers(tmp_path / "t")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.fixture
def full_disk():
    """Files may not grow beyond 10 kB: what a full disk is to a program, with another number."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_a_sentence_and_the_earlier_file_stays(tmp_path, full_disk):
    save_tree({"a": torch.ones(2)}, tmp_path / "t")
    for write in (lambda f: save_tree({"a": torch.ones(10_000)}, f), lambda f: write_text(f, "x" * 20_000)):
        with pytest.raises(UserError, match=r"could not be written .*the file that stood there is whole"):
            write(tmp_path / "t")
    assert torch.equal(load_tree(tmp_path / "t")["a"], torch.ones(2))
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_a_truncated_or_damaged_file_is_a_sentence(tmp_path):
    file = tmp_path / "model.safetensors"
    save_tree({"state_dict": {"w": torch.arange(5.0)}, "config": {"a": [1, (2.5, None)]}, "s": {1, 2}}, file)
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"model\.safetensors"):
            load_tree(file)
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            damaged[place] ^= int(random.integers(1, 256))
        file.write_bytes(damaged)
        try:
            load_tree(file)  # what was hit may be a number
        except UserError as error:
            assert "model.safetensors" in str(error)


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda file: None, "There is no file"),
        (lambda file: file.mkdir(), "There is no file"),
        (lambda file: file.write_bytes(b""), "cannot be read"),
        (lambda file: save_file({"a": torch.ones(1)}, file), "another format"),
        (lambda file: torch.save({"a": 1}, file), "convert it with"),
        (lambda file: file.write_bytes(b"\x80\x04K\x01."), "convert it with"),
    ],
)
def test_what_is_no_tree_is_a_sentence(write, sentence, tmp_path):
    write(tmp_path / "f")
    with pytest.raises(UserError, match=sentence):
        load_tree(tmp_path / "f")


def test_a_header_names_nothing_but_data(tmp_path):
    """A forged header cannot reach functions of torch or classes that are no enums of RecBole."""
    for node in (
        {"torch": "torch.load"},
        {"enum": ["Enum", "__class__"]},
        {"enum": ["sys", "path"]},
        {"scipy": "os_x"},
    ):
        metadata = {"format": "recbole_persona.tree/1", "tree": json.dumps(node)}
        save_file({}, tmp_path / "f", metadata=metadata)
        with pytest.raises(UserError, match="damaged"):
            load_tree(tmp_path / "f")


def test_what_is_read_does_not_hang_on_the_file(tmp_path):
    save_tree({"a": torch.arange(4.0)}, tmp_path / "t")
    tree = load_tree(tmp_path / "t")
    with open(tmp_path / "t", "r+b") as file:
        file.truncate(0)
    assert tree["a"].tolist() == [0, 1, 2, 3] and tree["a"].data_ptr() % 64 == 0


def test_the_format_stands_in_the_header(tmp_path):
    save_tree({"a": 1}, tmp_path / "t")
    with safe_open(tmp_path / "t", framework="pt") as file:
        assert file.metadata()["format"] == "recbole_persona.tree/1"
