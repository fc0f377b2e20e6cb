import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from codd_lightning.circuits import HMM, CircuitError, ContextualHMM, load_circuit, load_jpc, save_jpc

from .oracles import ORACLE, oracle
from .strategies import random_hmm

JPC = ORACLE / "jpc"
HOMOGENEOUS = JPC / "hom_n16_v50_l8.jpc"


class Touch:
    """A pickle that makes a file when it is read carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def nodes() -> list[dict]:
    """The nodes of a sample, as numpy's own pickles."""
    found: list[dict] = pickle.loads(HOMOGENEOUS.read_bytes())  # a file of ours
    return found


def written(path: Path, content: object) -> Path:
    path.write_bytes(pickle.dumps(content))
    return path


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("hom_n16_v50_l8", "jpc/hom_n16_v50_l8"),
        ("hom_n16_v50_l8_ext", "jpc/hom_n16_v50_l8_ext"),
        ("inhom_n16_v50_l8", "jpc/inhom_n16_v50_l8"),
        ("tiny_n3_v4_l4_ext", "bruteforce_n3_v4_l4"),
    ],
)
def test_the_parameters_of_a_file_are_those_beside_it(name: str, parameters: str) -> None:
    values = oracle(parameters)
    hmm = load_jpc(JPC / f"{name}.jpc")
    assert hmm.block_length == (4 if "l4" in name else 8)
    for found, expected in zip(hmm.probabilities(), ("initial", "transition", "emission"), strict=True):
        assert_close(found, values[expected].float(), atol=1e-6, rtol=0.0)


def test_a_trained_file_holds_the_last_parameters_of_its_training() -> None:
    values = oracle("anemone_cat")
    for found, expected in zip(
        load_jpc(JPC / "trained_cat.jpc").probabilities(), ("initial", "transition", "emission"), strict=True
    ):
        assert_close(found, values[expected][-1].float(), atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_every_protocol_is_read(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "circuit.jpc"
    path.write_bytes(pickle.dumps(nodes(), protocol=protocol))
    for found, expected in zip(load_jpc(path).probabilities(), load_jpc(HOMOGENEOUS).probabilities(), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("homogeneous", [True, False])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_what_is_written_is_read_back(tmp_path: Path, homogeneous: bool, length: int) -> None:
    hmm = random_hmm(3, 4, length, homogeneous)
    save_jpc(hmm, tmp_path / "circuit.jpc")
    again = load_jpc(tmp_path / "circuit.jpc")
    tokens = torch.randint(4, (6, length), generator=torch.Generator().manual_seed(0))
    assert_close(again.log_prob(tokens).double(), hmm.log_prob(tokens).detach(), atol=1e-5, rtol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["circuit.jpc"]


def test_a_written_file_is_built_like_pyjuices_own(tmp_path: Path) -> None:
    """Node by node the same as the sample, so that what reads one reads the other."""
    save_jpc(load_jpc(HOMOGENEOUS), tmp_path / "circuit.jpc")
    ours: list[dict] = pickle.loads((tmp_path / "circuit.jpc").read_bytes())
    for one, other in zip(ours, nodes(), strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            if isinstance(value, np.ndarray):
                assert value.dtype == other[key].dtype
                np.testing.assert_allclose(value, other[key], atol=1e-6)
            elif key != "dist":
                assert value == other[key]
        if "dist" in one:
            assert b"pyjuice.nodes.distributions.categorical" in one["dist"]


def test_zero_probabilities_survive(tmp_path: Path) -> None:
    initial, transition = torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    hmm = HMM.from_probabilities(initial, transition, torch.tensor([[0.0, 1.0], [1.0, 0.0]]), block_length=3)
    save_jpc(hmm, tmp_path / "circuit.jpc")
    for found, expected in zip(load_jpc(tmp_path / "circuit.jpc").probabilities(), hmm.probabilities(), strict=True):
        assert torch.equal(found, expected)


def test_masked_parameters_are_zero(tmp_path: Path) -> None:
    content = nodes()
    root = content[-1]
    root["zero_param_mask"] = root["params"] < 0.05
    kept = np.where(root["zero_param_mask"], 0, root["params"])
    root["params"] = root["params"] / kept.sum()
    found = load_jpc(written(tmp_path / "circuit.jpc", content)).probabilities()[0]
    assert_close(found, torch.from_numpy(kept.ravel() / kept.sum()), atol=1e-6, rtol=0.0)


def test_load_circuit_reads_a_file_and_a_folder_that_holds_one(tmp_path: Path) -> None:
    (tmp_path / "published.jpc").write_bytes(HOMOGENEOUS.read_bytes())
    for place in (HOMOGENEOUS, tmp_path):
        assert load_circuit(place).config() == load_jpc(HOMOGENEOUS).config()
    (tmp_path / "another.jpc").write_bytes(HOMOGENEOUS.read_bytes())
    with pytest.raises(CircuitError, match=r"2 \.jpc files"):
        load_circuit(tmp_path)


def test_code_is_refused_by_name_and_not_run(tmp_path: Path) -> None:
    target = tmp_path / "touched"
    with pytest.raises(CircuitError, match=r"pathlib.*refused"):
        load_jpc(written(tmp_path / "circuit.jpc", [Touch(target)]))
    assert not target.exists()


def test_nested_pickles_are_not_opened(tmp_path: Path) -> None:
    target = tmp_path / "touched"
    content = nodes()
    content[0]["dist"] = pickle.dumps(Touch(target))
    load_jpc(written(tmp_path / "circuit.jpc", content))
    assert not target.exists()


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "builtins.getattr", "numpy.load", "torch.load"])
def test_any_other_name_is_refused(tmp_path: Path, name: str) -> None:
    module, function = name.split(".")
    (tmp_path / "circuit.jpc").write_bytes(f"c{module}\n{function}\n(S'x'\ntR.".encode())
    with pytest.raises(CircuitError, match=rf"{module}\.{function}.*refused"):
        load_jpc(tmp_path / "circuit.jpc")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path: Path, share: float) -> None:
    whole = HOMOGENEOUS.read_bytes()
    path = tmp_path / "circuit.jpc"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CircuitError, match=r"circuit\.jpc is not a whole"):
        load_jpc(path)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04r\xff\xff\xff\xff.",  # a memo slot far away
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes longer than memory
        b"(" * 200_000 + b".",
        b"\x80\x04]" + b"(l" * 100_000 + b".",
        b"not a pickle",
    ],
)
def test_hostile_files_end_in_one_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "circuit.jpc"
    path.write_bytes(content)
    with pytest.raises(CircuitError, match=r"circuit\.jpc"):
        load_jpc(path)


def change(index: int, key: str, value: object) -> object:
    def changed(content: list[dict]) -> None:
        content[index][key] = value

    return changed


@pytest.mark.parametrize(
    ("mend", "named"),
    [
        (change(23, "external_params", True), "external_params"),
        (change(23, "chs", (99,)), "node 99"),
        (change(22, "chs", (0, 1)), "product"),
        (change(22, "chs", (0, 23)), "loop|chain|variable"),
        (change(0, "scope", [3]), r"variable \[3\]"),
        (change(11, "source_node", 11), "loop"),
        (change(9, "params", np.ones((1, 16, 16), dtype=np.float32)), "sum to 1"),
        (change(9, "params", np.ones((1, 4, 16), dtype=np.float32)), "sum to 1"),
        (change(9, "params", None), "params"),
        (change(9, "edge_ids", np.array([[5], [0]])), "edge_ids"),
        (change(7, "params", np.ones(17, dtype=np.float32)), "17 input parameters"),
        (change(9, "params", np.full((1, 16, 16), np.nan, dtype=np.float32)), "sum to 1"),
        (change(9, "num_node_blocks", -1), "-1"),
        (change(9, "edge_ids", np.array(0)), "edge_ids|TypeError"),
        (change(9, "block_size", 10**30), "states|OverflowError|ValueError"),
        (change(9, "type", []), "expected|TypeError"),
    ],
)
def test_what_is_not_an_hmm_is_said(tmp_path: Path, mend: object, named: str) -> None:
    content = nodes()
    mend(content)  # type: ignore[operator]
    with pytest.raises(CircuitError, match=named):
        load_jpc(written(tmp_path / "circuit.jpc", content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CircuitError, match=r"there is no file .*gone\.jpc"):
        load_jpc(tmp_path / "gone.jpc")


@pytest.mark.parametrize("homogeneous", [True, False])
@pytest.mark.parametrize("num_states", [1, 3, 8, 12])
def test_pyjuice_itself_reads_what_is_written(num_states: int, homogeneous: bool, tmp_path: Path) -> None:
    """PyJuice computes on GPUs only; on a CPU it reads and writes."""
    juice = pytest.importorskip("pyjuice", reason="PyJuice is not installed")
    hmm = random_hmm(num_states, 7, 5, homogeneous)
    save_jpc(hmm, tmp_path / "ours.jpc")
    juice.save(str(tmp_path / "theirs.jpc"), juice.load(str(tmp_path / "ours.jpc")))
    for ours, theirs in zip(hmm.probabilities(), load_jpc(tmp_path / "theirs.jpc").probabilities(), strict=True):
        torch.testing.assert_close(theirs, ours.float(), atol=1e-6, rtol=0)


def test_a_circuit_that_knows_the_context_is_no_plain_hmm(tmp_path: Path) -> None:
    circuit = ContextualHMM(num_states=4, vocab_size=5, block_length=3, hidden_size=2, roles=2)
    with pytest.raises(CircuitError, match="not of ContextualHMM"):
        save_jpc(circuit, tmp_path / "circuit.jpc")
    assert not list(tmp_path.iterdir())
