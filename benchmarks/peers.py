"""The same quantity by other libraries: an HMM's log normaliser under given scores, and its gradient."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Pair = tuple[Callable[[], object], Callable[[], object] | None]


def torch_autograd(initial: Array, transition: Array, scores: Array) -> Pair:
    """Plain PyTorch, the same scaled recursion, differentiated by autograd."""
    import torch

    start, step, given = (torch.from_numpy(x).requires_grad_() for x in (initial, transition, scores))

    def log_normalizer() -> torch.Tensor:
        message, total = start * given[:, 0], given.new_zeros(len(given))
        for i in range(1, given.shape[1]):
            scale = message.sum(-1, keepdim=True)
            total = total + scale.squeeze(-1).log()
            message = (message / scale) @ step * given[:, i]
        return total + message.sum(-1).log()

    def value() -> object:
        with torch.no_grad():
            return log_normalizer()

    return value, lambda: log_normalizer().sum().backward()


def jax_scan(initial: Array, transition: Array, scores: Array) -> Pair:
    """The scaled recursion as a jitted `lax.scan`."""
    import jax
    import jax.numpy as jnp

    def total(start, step, given):
        def advance(message, score):
            message = message @ step * score
            scale = message.sum(-1)
            return message / scale[:, None], jnp.log(scale)

        first = start * given[:, 0]
        scale = first.sum(-1)
        _, scales = jax.lax.scan(advance, first / scale[:, None], given[:, 1:].transpose(1, 0, 2))
        return (jnp.log(scale) + scales.sum(0)).sum()

    arrays = tuple(map(jnp.asarray, (initial, transition, scores)))
    value, gradient = jax.jit(total), jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))
    return lambda: jax.block_until_ready(value(*arrays)), lambda: jax.block_until_ready(gradient(*arrays))


def dynamax(initial: Array, transition: Array, scores: Array) -> Pair:
    """dynamax's filter over a batch, jitted."""
    import jax
    import jax.numpy as jnp
    from dynamax.hidden_markov_model import hmm_filter

    def total(start, step, given):
        return jax.vmap(lambda row: hmm_filter(start, step, row).marginal_loglik)(jnp.log(given)).sum()

    arrays = tuple(map(jnp.asarray, (initial, transition, scores)))
    value, gradient = jax.jit(total), jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))
    return lambda: jax.block_until_ready(value(*arrays)), lambda: jax.block_until_ready(gradient(*arrays))


def pomegranate(initial: Array, transition: Array, scores: Array) -> Pair:
    """pomegranate's dense HMM: forward, and forward-backward with expected transitions."""
    import torch
    from pomegranate.distributions import Categorical
    from pomegranate.hmm import DenseHMM

    states = len(initial)
    model = DenseHMM(
        [Categorical([[0.5, 0.5]]) for _ in range(states)],
        edges=transition.astype("float32") * (1 - 1e-6),
        starts=initial,
        ends=np.full(states, 1e-6, dtype="float32"),
    )
    emissions = torch.from_numpy(scores).log()
    return lambda: model.forward(emissions=emissions), lambda: model.forward_backward(emissions=emissions)


def hmmlearn(initial: Array, transition: Array, scores: Array) -> Pair:
    """hmmlearn's C++ recursions, one sequence at a time, in float64: forward, and forward, backward and transitions."""
    from hmmlearn import _hmmc

    start, step, logs = initial.astype(float), transition.astype(float), np.log(scores.astype(float))

    def value() -> float:
        return sum(_hmmc.forward_log(start, step, row)[0] for row in logs)

    def counts() -> None:
        for row in logs:
            _, forward = _hmmc.forward_log(start, step, row)
            _hmmc.compute_log_xi_sum(forward, step, _hmmc.backward_log(start, step, row), row)

    return value, counts


def cirkit(initial: Array, transition: Array, scores: Array) -> Pair:
    """libcirkit's HMM of categorical inputs over 16 tokens: it takes tokens, not scores."""
    import torch
    from cirkit.pipeline import PipelineContext
    from cirkit.templates import pgms, utils

    batch, length, states = scores.shape
    weights = utils.Parameterization(activation="softmax", initialization="normal")
    symbolic = pgms.hmm(
        range(length),
        input_layer="categorical",
        num_latent_states=states,
        input_layer_kwargs={"num_categories": 16},
        weight_param=weights,
    )
    circuit = PipelineContext(backend="torch", semiring="lse-sum", fold=True, optimize=True).compile(symbolic)
    tokens = torch.randint(16, (batch, length))

    def value() -> object:
        with torch.no_grad():
            return circuit(tokens)

    return value, lambda: circuit(tokens).sum().backward()


PEERS: dict[str, Callable[[Array, Array, Array], Pair]] = {
    "PyTorch autograd": torch_autograd,
    "JAX scan, jitted": jax_scan,
    "dynamax": dynamax,
    "pomegranate": pomegranate,
    "hmmlearn": hmmlearn,
    "libcirkit": cirkit,
}
