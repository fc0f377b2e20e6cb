"""What the page is made of, without a browser: choices checked, responses explained, texts shown as text."""

import dataclasses
from collections.abc import Callable

import pytest

from codd_lightning.backbones import Backbone, load_backbone
from codd_lightning.circuits import HMM
from codd_lightning.decoding import DecodingConfig, generate
from codd_lightning.demo.session import DECODERS, EOS, Choices, Explanation, Session, Side
from codd_lightning.demo.view import error_html, explanation_html, naming
from codd_lightning.errors import UserError
from codd_lightning.evaluation.explain import Commit, RaisedPair

PROMPT = "Ben has 3 coins. Ada brings 9 more. Ada takes 7. How many coins does Ben have?"
HOSTILE = "<img src=x onerror=alert(1)>${alert(1)}{{value}}"


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("codd_tiny")


@pytest.fixture
def session(backbone: Backbone, random_hmm: Callable[..., HMM]) -> Session:
    return Session(backbone, random_hmm(8, backbone.vocab_size, 16))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": " \n"}, "the prompt is empty"),
        ({"prompt": "\ud800"}, "half a character"),
        ({"prompt": "coins " * 225}, "the prompt has 225 tokens; beside a response of 32 the backbone has"),
        ({"steps": 0}, "steps per block 0 must be a whole number from 1 to 16"),
        ({"steps": 17}, "steps per block 17 must be"),
        ({"steps": 2.5}, "steps per block 2.5 must be"),
        ({"steps": float("nan")}, "steps per block nan must be"),
        ({"steps": float("inf")}, "steps per block inf must be"),
        ({"steps": None}, "steps per block is empty"),
        ({"gamma": 1.5}, "γ 1.5 is a share of masked tokens"),
        ({"gamma": None}, "γ is empty"),
        ({"tau": -1.0}, "τ -1.0 must be 0"),
        ({"tau": float("nan")}, "τ nan must be"),
        ({"proposal": "factorized"}, "decoder 'factorized' is not one of any_order"),
        ({"remasking": "?"}, "remasking=? is not one of"),
        ({"eos": "?"}, "eos=? is not one of"),
    ],
)
def test_what_is_wrong_in_the_page_is_one_line(session: Session, change: dict[str, object], says: str) -> None:
    with pytest.raises(UserError) as error:
        session.explain(dataclasses.replace(Choices(PROMPT), **change))  # type: ignore[arg-type]
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert "decoding." not in str(error.value)


@pytest.mark.parametrize("eos", EOS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_is_explained_as_generate_decodes(session: Session, decoder: str, eos: str) -> None:
    tau = 1.0 if decoder == "latent_reference" else 0.0  # at 0 its tempered evidence leaves the circuit no say
    shown = session.explain(Choices(PROMPT, steps=2, tau=tau, proposal=decoder, eos=eos))
    config = DecodingConfig(proposal="factorized", eos=eos, steps=4, max_new_tokens=32, block_length=16)
    expected = generate(session.backbone, [PROMPT], config)
    response = expected.sequences[0][-expected.response_tokens[0] :]
    in_order = sorted(shown.factorized.commits, key=lambda commit: commit.position)
    assert [commit.token for commit in in_order][: shown.factorized.length] == response
    assert not any(commit.changed for commit in shown.factorized.commits)
    assert (shown.factorized.nfe, shown.factorized.circuit_calls) == (expected.nfe[0], 0)
    assert shown.coupled.decoder == decoder
    assert shown.coupled.circuit_calls > 0
    assert any(commit.changed for commit in shown.coupled.commits)
    assert 1 <= len(shown.pairs) <= 2


def test_the_same_seed_shows_the_same_again(session: Session) -> None:
    choices = Choices(PROMPT, tau=1.0, proposal="latent")
    assert session.explain(choices) == session.explain(choices)


def test_a_circuit_of_another_backbone_is_refused(backbone: Backbone, random_hmm: Callable[..., HMM]) -> None:
    with pytest.raises(UserError, match="it was trained for another backbone"):
        Session(backbone, random_hmm(2, 7, 16))


def test_whatever_a_token_is_called_is_shown_as_text() -> None:
    side = Side("any_order", [Commit(0, 0, 1, 0.5, True, 1)], 1, 1, 1, True)
    page = explanation_html(Explanation(side, side, [[RaisedPair((0, 1), (0, 1), 0.1, 0.2)], []]), lambda _: HOSTILE)
    for text in (page, error_html(HOSTILE)):
        assert "<img" not in text
        assert not set("{}$`\\") & set(text)
        assert "&lt;img src=x onerror=alert(1)&gt;&#36;&#123;alert" in text


def test_tokens_have_names_that_can_be_seen(backbone: Backbone) -> None:
    name = naming(backbone)
    assert all(name(token).strip() for token in range(backbone.vocab_size))
    assert {name(token) for token in backbone.eos_token_ids} == {"■"}
