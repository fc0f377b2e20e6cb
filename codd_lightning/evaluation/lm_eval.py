"""A backbone, with a circuit or without, as a model of EleutherAI's lm-eval harness.

`codd lm-eval` makes it known there as `--model codd`. Not imported by `codd_lightning.evaluation`: lm-eval is an extra.
"""

import dataclasses
import logging
import time
import warnings
from collections import defaultdict
from typing import Any

import torch
import torch.distributed as dist
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from torch import Tensor
from tqdm import tqdm

from codd_lightning.backbones import device_of, load_backbone
from codd_lightning.circuits import load_circuit
from codd_lightning.decoding import DecodingConfig, choose_proposal, generate, require_fit
from codd_lightning.errors import UserError
from codd_lightning.evaluation.lm_eval_options import ModelOptions, decoder_of
from codd_lightning.evaluation.lm_eval_requests import Cost, Request, batches, cut, named, summary
from codd_lightning.evaluation.lm_eval_scoring import Scored, bounds_of, written_greedily

log = logging.getLogger("lm_eval.codd")


class CoddLM(LM):
    """Decodes and scores for lm-eval.

    The processes of a `torch.distributed` group share the requests.

    Attributes:
        options: how to decode and score.
        costs: of every sample decoded so far; the first process has those of all.

    Args:
        arguments: the `--model_args`: those of `ModelOptions`, and any option of `DecodingConfig`.

    Raises:
        UserError: an argument is unknown or out of range, or backbone, circuit and decoder do not fit.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.options = options = ModelOptions.of_arguments(arguments)
        if dist.is_initialized():
            self._rank, self._world_size = dist.get_rank(), dist.get_world_size()
        circuit = None if options.circuit is None else load_circuit(options.circuit)
        choose_proposal(options.decoding, circuit)
        self.backbone = load_backbone(options.backbone, options.dtype, options.device, options.attention)
        self._device = device_of(self.backbone)
        self.tokenizer: Any = self.backbone.tokenizer
        if self.tokenizer is None:
            raise UserError(f"model_args: backbone={options.backbone} has no tokenizer, so it cannot read a task")
        if circuit is not None:
            require_fit(self.backbone, circuit, options.decoding.block_length)
            circuit = circuit.to(self._device).eval().requires_grad_(False)
        self.circuit = circuit
        self.costs: list[Cost] = []
        self._template: str | None = None

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> "CoddLM":
        """As lm-eval makes it: its own `--device` and `--batch_size` count where `--model_args` do not name them.

        Raises:
            UserError: the batch size is to be found by trial.
        """
        given = {key: value for key, value in (additional_config or {}).items() if value is not None}
        if given.pop("max_batch_size", None) is not None or "auto" in str(given.get("batch_size")):
            raise UserError("--batch_size auto is not found by --model codd: give a number")
        if "batch_size" in given:
            given["batch_size"] = int(given["batch_size"])
        if given.get("device") == "cuda:0":  # lm-eval's default, whatever the machine
            given["device"] = "cuda" if torch.cuda.is_available() else "cpu"
        arguments = {**given, **arg_dict}
        if arguments.get("device") == "cuda" and dist.is_initialized():
            arguments["device"] = f"cuda:{dist.get_rank() % torch.cuda.device_count()}"
        return cls(**arguments)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Decodes a text for each request, cut at the first of its stop strings."""
        every = named(requests)
        proposal = self.options.decoding.proposal or ("factorized" if self.circuit is None else "any_order")
        groups: dict[tuple[DecodingConfig, tuple[str, ...]], list[Request]] = defaultdict(list)
        prompts: dict[Request, list[int]] = {}
        for request in dict.fromkeys(every):
            context, options = request.instance.args
            config, stops = decoder_of(options, self.options.decoding, proposal)
            groups[config, stops].append(request)
            prompts[request] = self._fitted(self._encode(context), config.max_new_tokens)
        texts: dict[Request, str] = {}
        costs: list[Cost] = []
        with self._bar(len(prompts), disable_tqdm) as bar:
            for (config, stops), members in groups.items():
                by_length = sorted(members, key=lambda request: len(prompts[request]))
                for batch in batches(by_length, self.options.batch_size):
                    found, took = self._decoded(batch, [prompts[request] for request in batch], config)
                    costs += took
                    for request, text in zip(batch, found, strict=True):
                        texts[request] = cut(text, stops)
                        self.cache_hook.add_partial("generate_until", request.instance.args, texts[request])
                    bar.update(len(batch))
        for part in self.gather_object(costs) or []:
            self.costs += part
        if self.rank == 0:
            for task, means in summary(self.costs).items():
                log.info("%s: %s", task, ", ".join(f"{name} {value:.6g}" for name, value in means.items()))
        return [texts[request] for request in every]

    def _decoded(
        self, batch: list[Request], prompts: list[list[int]], config: DecodingConfig
    ) -> tuple[list[str], list[Cost]]:
        draws = [request.generator(self.options.seed, "generate_until") for request in batch]
        started = time.perf_counter()
        generation = generate(self.backbone, prompts, config, circuit=self.circuit, generator=draws)
        seconds = (time.perf_counter() - started) / len(batch)
        counts = zip(batch, generation.response_tokens, generation.nfe, generation.circuit_calls, strict=True)
        costs = [
            Cost(request.task, request.doc_id, tokens, nfe, calls, seconds) for request, tokens, nfe, calls in counts
        ]
        assert generation.texts is not None, "there is a tokenizer"
        return generation.texts, costs

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """A lower bound on the log-likelihood of each continuation, and whether greedy decoding would write it.

        The bound is that of `masked_bound`: exact where a continuation has few tokens, estimated where it has more.
        Greedy decoding commits one token a step, the surest first, with the circuit where there is one.
        """
        every = named(requests)
        parts = {}
        for request in dict.fromkeys(every):
            context, continuation = self._encode_pair(*request.instance.args)
            parts[request] = Scored(request, 0, self._fitted(context, len(continuation)), continuation)
        bounds = self._bounds(list(parts.values()), disable_tqdm)
        greedy = written_greedily(self.backbone, self.circuit, self.options, list(parts.values()))
        for request in parts:
            answer = (bounds[request], request in greedy)
            self.cache_hook.add_partial("loglikelihood", request.instance.args, answer)
        return [(bounds[request], request in greedy) for request in every]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """A lower bound on the log-likelihood of each whole text, in windows that the backbone's positions hold.

        A window after the first sees one token of the one before it.
        """
        every = named(requests)
        parts = []
        first = self._encode("")
        for request in dict.fromkeys(every):
            tokens = self._encode(*request.instance.args)[len(first) :]
            room = len(tokens) if self.max_length is None else self.max_length - max(len(first), 1)
            for part, start in enumerate(range(0, len(tokens), max(room, 1))):
                context = tokens[start - 1 : start] if start else first
                parts.append(Scored(request, part, context, tokens[start : start + room]))
        bounds = self._bounds(parts, disable_tqdm)
        for request in dict.fromkeys(every):
            self.cache_hook.add_partial("loglikelihood_rolling", request.instance.args, bounds[request])
        return [bounds[request] for request in every]

    def _bounds(self, parts: list[Scored], disable_tqdm: bool) -> dict[Request, float]:
        with self._bar(len(parts), disable_tqdm) as bar:
            return bounds_of(self.backbone, self.circuit, self.options, parts, bar.update)

    def _encode(self, text: str) -> list[int]:
        """Token ids, with the tokenizer's own special tokens unless a chat template has put them there."""
        return list(self.tokenizer(text, add_special_tokens=self._template is None)["input_ids"])

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Both, split where the context's own tokens end; spaces that end it belong to the continuation (lm-eval)."""
        stripped = context.rstrip()
        before, whole = self._encode(stripped), self._encode(context + continuation)
        return before, whole[len(before) :]

    def _fitted(self, context: list[int], room: int) -> list[int]:
        """The end of a context that leaves so much room among the backbone's positions, as lm-eval does it."""
        if self.max_length is None or len(context) + room <= self.max_length:
            return context
        if room >= self.max_length:
            raise UserError(f"{room} tokens do not fit the backbone's {self.max_length} positions: ask for fewer")
        warnings.warn(
            f"some contexts lose their beginnings: with {room} tokens after them they pass the backbone's "
            f"{self.max_length} positions",
            stacklevel=2,
        )
        return context[len(context) + room - self.max_length :]

    @property
    def max_length(self) -> int | None:
        """Positions that the backbone knows of; None where its configuration does not say."""
        return getattr(self.backbone.model.config, "max_position_embeddings", None)

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval's cache of requests knows the tokenizer by."""
        return self.options.backbone.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The tokenizer's chat template, by name where it has several; from now on prompts are taken to be rendered.

        Raises:
            UserError: there is none.
        """
        if not chat_template:
            return None
        name = chat_template if isinstance(chat_template, str) else None
        if not getattr(self.tokenizer, "chat_template", None):
            raise UserError(f"backbone={self.options.backbone} has no chat template: leave out --apply_chat_template")
        self._template = str(self.tokenizer.get_chat_template(name))
        return self._template

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the text of a prompt; without a generation prompt it goes on with its last message."""
        template = self._template or self.chat_template(True)
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes into its results under `config`: the decoder, and what its samples took on average."""
        return {"codd": {**dataclasses.asdict(self.options), "cost": summary(self.costs)}}

    def all_gather(self, tensor: Tensor) -> Tensor:
        """`(W,)` of a number on each process."""
        return torch.tensor(self._gathered(tensor.item()))

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """An object of each process on one of them; None on the others."""
        gathered = self._gathered(obj)
        return gathered if self.rank == dst else None

    def barrier(self) -> None:
        """Until all processes are here."""
        if self.world_size > 1:
            dist.barrier()

    def _gathered(self, value: Any) -> list[Any]:
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def _bar(self, total: int, disabled: bool) -> "tqdm[Any]":
        return tqdm(total=total, disable=disabled or self.rank != 0)
