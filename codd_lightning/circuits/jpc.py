"""HMMs in PyJuice's file format, read and written without PyJuice.

A `.jpc` file is a pickle of a list of nodes, children first and the root last.
"""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codd_lightning.circuits.errors import CircuitError
from codd_lightning.circuits.hmm import HMM
from codd_lightning.circuits.safe_pickle import Array, PickledArray, read_pickle

MAX_ENTRIES = 2**32  # of one table
MAX_NODES = 100_000  # two a position and one more: far beyond any block

Node = dict[str, Any]


def load_jpc(path: str | Path) -> HMM:
    """Reads an HMM that PyJuice has saved.

    Args:
        path: of a `.jpc` file, trusted or not: nothing of it is executed.

    Raises:
        CircuitError: the file is missing, broken, asks for code, or holds a circuit that is not an HMM.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            nodes = read_pickle(file)
    except FileNotFoundError:
        raise CircuitError(f"there is no file {path}") from None
    except CircuitError as error:
        raise CircuitError(f"{path}: {error}") from None
    except Exception as error:  # a hostile pickle can raise anything; none of it is our fault
        reason = str(error) or type(error).__name__
        raise CircuitError(f"{path} is not a whole .jpc file: {reason}") from None
    try:
        return _circuit(nodes)
    except CircuitError as error:
        raise CircuitError(f"{path} does not hold an HMM: {error}") from None
    except (TypeError, ValueError, IndexError, OverflowError, MemoryError, RuntimeError) as error:
        raise CircuitError(f"{path} does not hold an HMM: {type(error).__name__}: {error}") from None


def save_jpc(circuit: HMM, path: str | Path) -> None:
    """Writes an HMM as PyJuice writes them, its inputs categorical; an interrupted save leaves an older file whole.

    Raises:
        CircuitError: the circuit is not an HMM, or is one that knows the context, which the format has no place for.
    """
    if type(circuit) is not HMM:
        raise CircuitError(f".jpc files are written of HMMs only, not of {type(circuit).__name__}")
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with beside.open("wb") as file:
            pickle.dump(_nodes(circuit), file, protocol=4)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _circuit(nodes: Any) -> HMM:
    """The HMM that a list of nodes describes, from its root down the chain."""
    if not isinstance(nodes, list) or not nodes or not all(isinstance(node, dict) for node in nodes):
        raise CircuitError("a list of nodes is expected")
    if len(nodes) > MAX_NODES:
        raise CircuitError(f"it has {len(nodes)} nodes")
    for node in nodes:
        if "external_params" in node:
            raise CircuitError("it is a gated circuit (external_params): its parameters come from outside")
    sums: list[Array] = []
    sum_sources: list[int] = []
    emissions: list[Array] = []
    emission_sources: list[int] = []
    index = len(nodes) - 1
    while True:
        node = _expect(nodes, index, "Sum")
        source = _source(nodes, index)
        below = _only_child(nodes, node)
        sums.append(_matrix(nodes[source], _size(node), _size(nodes[below])))
        sum_sources.append(source)
        inputs, following = _factors(nodes, below)
        scope = nodes[inputs].get("scope")
        if scope != [len(emissions)]:
            raise CircuitError(
                f"position {len(emissions)} of the chain is variable {scope!r}: variables must be in order"
            )
        source = _source(nodes, inputs)
        emissions.append(_emission(nodes[source], _size(nodes[inputs])))
        emission_sources.append(source)
        if following is None:
            break
        if len(emissions) >= len(nodes):
            raise CircuitError("its nodes form a loop")
        index = following
    num_states, vocab_size = emissions[0].shape
    if any(table.shape != (num_states, vocab_size) for table in emissions) or sums[0].shape != (1, num_states):
        raise CircuitError("positions differ in their numbers of states or tokens")
    if any(table.shape != (num_states, num_states) for table in sums[1:]):
        raise CircuitError("a transition is not between the states of two positions")
    length = len(emissions)
    homogeneous = len(set(emission_sources)) == 1 and len(set(sum_sources[1:])) <= 1
    if homogeneous:
        transition = sums[1] if length > 1 else np.eye(num_states, dtype=np.float32)
        tables = transition, emissions[0]
    else:
        tables = np.stack(sums[1:]), np.stack(emissions)
    transition_tensor, emission_tensor = (torch.from_numpy(np.ascontiguousarray(table)) for table in tables)
    return HMM.from_probabilities(
        torch.from_numpy(sums[0][0].copy()), transition_tensor, emission_tensor, block_length=length
    )


def _expect(nodes: list[Node], index: Any, kind: str) -> Node:
    if not isinstance(index, int) or not 0 <= index < len(nodes):
        raise CircuitError(f"a node refers to node {index!r} of {len(nodes)}")
    if nodes[index].get("type") != kind:
        raise CircuitError(f"node {index} is {nodes[index].get('type')!r} where {kind!r} is expected")
    return nodes[index]


def _only_child(nodes: list[Node], node: Node) -> int:
    children = node.get("chs")
    if not isinstance(children, list | tuple) or len(children) != 1:
        raise CircuitError(f"a sum over {children!r}: the states of one position are expected")
    index: Any = children[0]
    if not isinstance(index, int) or not 0 <= index < len(nodes):
        raise CircuitError(f"a node refers to node {index!r} of {len(nodes)}")
    return index


def _factors(nodes: list[Node], index: int) -> tuple[int, int | None]:
    """Of a product (or a lone input): its input, and the sum that goes on."""
    if nodes[index].get("type") == "Input":
        return index, None
    product = _expect(nodes, index, "Product")
    children = product.get("chs")
    if not isinstance(children, list | tuple) or not 1 <= len(children) <= 2:
        raise CircuitError(f"a product of {children!r}: one input, and one sum, are expected")
    edges = _array(product.get("edge_ids"), "edge_ids")
    blocks = np.arange(len(edges))[:, None]
    if edges.shape != (product.get("num_node_blocks", len(edges)), len(children)) or not bool((edges == blocks).all()):
        raise CircuitError("a product that does not pair state with state")
    kinds = {}
    for child in children:
        if not isinstance(child, int) or not 0 <= child < len(nodes):
            raise CircuitError(f"a node refers to node {child!r} of {len(nodes)}")
        kinds[nodes[child].get("type")] = child
    if "Input" not in kinds or len(kinds) != len(children) or not set(kinds) <= {"Input", "Sum"}:
        raise CircuitError(f"a product of {sorted(map(str, kinds))}: one input, and one sum, are expected")
    return kinds["Input"], kinds.get("Sum")


def _source(nodes: list[Node], index: int) -> int:
    """The node whose parameters a node uses: its own, or those it is tied to."""
    seen = set()
    while "source_node" in nodes[index]:
        seen.add(index)
        following = nodes[index]["source_node"]
        _expect(nodes, following, nodes[index]["type"])
        if following in seen:
            raise CircuitError("tied nodes form a loop")
        index = following
    return index


def _blocks(node: Node) -> tuple[int, int]:
    """Number and size of a node's blocks, by any of the names in use."""
    count = node.get("num_node_blocks", node.get("num_node_groups", node.get("num_nodes")))
    size = node.get("block_size", node.get("group_size", 1))
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in (count, size)):
        raise CircuitError(f"a node of {count!r} blocks of {size!r}")
    return int(count), int(size)  # type: ignore[arg-type]  # checked


def _size(node: Node) -> int:
    count, size = _blocks(node)
    return count * size


def _matrix(node: Node, rows: int, columns: int) -> Array:
    """A sum's parameters as one `(rows, columns)` matrix."""
    edges = _array(node.get("edge_ids"), "edge_ids")
    params = _parameters(node)
    if edges.ndim != 2 or len(edges) != 2 or params.ndim != 3 or len(params) != edges.shape[1]:
        raise CircuitError(f"a sum with edge_ids of shape {edges.shape} and params of shape {params.shape}")
    _, height, width = params.shape
    if not params.size or rows * columns > MAX_ENTRIES:
        raise CircuitError(f"a sum of {rows} states over {columns}")
    if rows % height or columns % width or params.size > rows * columns:
        raise CircuitError(f"params of shape {params.shape} do not fit {rows} states over {columns}")
    tiles = np.zeros((rows // height, columns // width, height, width), dtype=params.dtype)
    parents, children = edges
    if parents.size and (
        min(parents.min(), children.min()) < 0 or parents.max() >= len(tiles) or children.max() >= tiles.shape[1]
    ):
        raise CircuitError("edge_ids name blocks that are not there")
    if len({*zip(parents.tolist(), children.tolist(), strict=True)}) != len(params):
        raise CircuitError("edge_ids name the same edge twice")
    tiles[parents, children] = params
    return tiles.transpose(0, 2, 1, 3).reshape(rows, columns)


def _emission(node: Node, num_states: int) -> Array:
    params = _parameters(node).reshape(-1)
    if not params.size or params.size % num_states:
        raise CircuitError(f"{params.size} input parameters do not fit {num_states} states")
    return params.reshape(num_states, -1)


def _parameters(node: Node) -> Array:
    params = _array(node.get("params"), "params").astype(np.float32)
    if "zero_param_mask" in node and node["zero_param_mask"] is not None:
        zero = _array(node["zero_param_mask"], "zero_param_mask").astype(bool)
        if zero.shape != params.shape:
            raise CircuitError(f"zero_param_mask of shape {zero.shape} does not fit params of shape {params.shape}")
        params = np.where(zero, 0.0, params).astype(np.float32)
    return params


def _array(value: Any, name: str) -> Array:
    if not isinstance(value, PickledArray) or value.array is None:
        raise CircuitError(f"{name} is missing or not an array")
    return value.array


def _nodes(circuit: HMM) -> list[Node]:
    """Inputs of all positions, then product and sum of each position from the last to the first."""
    initial, transition, emission = (_numpy(table) for table in circuit.probabilities())
    length, states = circuit.block_length, circuit.num_states
    block = states & -states  # PyJuice's blocks are powers of 2: the largest that divides the states
    blocks = states // block
    common = {"num_node_blocks": blocks, "block_size": block}
    pairs = np.stack(np.divmod(np.arange(blocks * blocks), blocks))  # every block over every block
    distribution = _categorical(circuit.vocab_size)
    nodes: list[Node] = []
    for position in range(length):
        node = {"type": "Input", **common, "chs": (), "scope": [position], "dist": distribution}
        if not circuit.homogeneous:
            node["params"] = emission[position].reshape(-1)
        elif position == length - 1:
            node["params"] = emission.reshape(-1)
        else:
            node["source_node"] = length - 1
        nodes.append(node)
    above = None
    source = None
    for position in reversed(range(length)):
        children = (position,) if above is None else (position, above)
        edges = np.repeat(np.arange(blocks)[:, None], len(children), axis=1)
        nodes.append({"type": "Product", **common, "chs": children, "edge_ids": edges})
        below = (len(nodes) - 1,)
        if position == 0:
            root = {"type": "Sum", "num_node_blocks": 1, "block_size": 1, "chs": below, "edge_ids": pairs[:, :blocks]}
            nodes.append({**root, "params": initial.reshape(blocks, 1, block)})
            break
        node = {"type": "Sum", **common, "chs": below, "edge_ids": pairs}
        if circuit.homogeneous and source is not None:
            node["source_node"] = source
        else:
            table = transition if circuit.homogeneous else transition[position - 1]
            tiles = table.reshape(blocks, block, blocks, block).transpose(0, 2, 1, 3)
            node["params"] = np.ascontiguousarray(tiles.reshape(-1, block, block))
            source = len(nodes)
        nodes.append(node)
        above = len(nodes) - 1
    return nodes


def _numpy(table: Tensor) -> Array:
    found: Array = np.ascontiguousarray(table.detach().float().cpu().numpy())
    return found


def _categorical(vocab_size: int) -> bytes:
    """A pickle of PyJuice's Categorical, written opcode by opcode: it cannot be imported here."""
    state = {"post_fw_fns": [], "post_bp_fns": [], "sampling_fns": [], "num_cats": vocab_size}
    body = pickle.dumps(state, protocol=2)[2:-1]  # without header and stop
    return b"\x80\x02cpyjuice.nodes.distributions.categorical\nCategorical\n)\x81" + body + b"b."
