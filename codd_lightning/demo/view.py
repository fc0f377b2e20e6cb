"""An explanation as HTML. Tokens are drawn once; the page's script shows those of the steps so far."""

from collections.abc import Callable, Sequence
from html import escape

from codd_lightning.backbones import Backbone
from codd_lightning.demo.session import Explanation, Side
from codd_lightning.evaluation.explain import Commit, RaisedPair

Naming = Callable[[int], str]

# What the page's templates would read as theirs is written as entities as well.
_TEMPLATE_MARKS = str.maketrans({mark: f"&#{ord(mark)};" for mark in "{}$`\\"})


def naming(backbone: Backbone) -> Naming:
    """What tokens are called in the page: their text without the space around it."""
    tokenizer, ends = backbone.tokenizer, set(backbone.eos_token_ids)
    assert tokenizer is not None, "a session needs one"

    def name(token: int) -> str:
        if token in ends:
            return "■"
        text = str(tokenizer.decode([token])).replace("\n", "↵")
        return text.strip() or "␣"

    return name


def error_html(message: str) -> str:
    """One line that says what is wrong."""
    return f'<p class="codd-error" role="alert">{_text(message)}</p>'


def explanation_html(explanation: Explanation, name: Naming) -> str:
    """Player, the two responses side by side, and the raised pairs of each block."""
    sides = {"factorized": explanation.factorized, f"coupled: {explanation.coupled.decoder}": explanation.coupled}
    steps = max(side.steps for side in sides.values())
    responses = "".join(_side(title, side, steps, name) for title, side in sides.items())
    blocks = "".join(_pairs(pairs, number, name) for number, pairs in enumerate(explanation.pairs, 1))
    return (
        f'<div class="codd" data-steps="{steps}">{_player(steps)}'
        f'<div class="sides">{responses}</div>{_legend()}'
        f"<h3>Pairs of tokens that the circuit raised</h3><p>{_PAIRS_NOTE}</p>"
        f'<div class="sides">{blocks}</div></div>'
    )


def _player(steps: int) -> str:
    return (
        '<div class="player"><button type="button" class="play" aria-label="play" aria-pressed="false"></button>'
        '<button type="button" class="back" aria-label="one step back">‹</button>'
        f'<input type="range" min="0" max="{steps}" value="{steps}" step="1" aria-label="step">'
        '<button type="button" class="forth" aria-label="one step on">›</button>'
        f"<output>step {steps} of {steps}</output></div>"
    )


def _side(title: str, side: Side, steps: int, name: Naming) -> str:
    changed = sum(commit.changed and commit.position < side.length for commit in side.commits)
    facts = [f"{side.length} tokens in {side.nfe} passes of the backbone"]
    if side.circuit_calls:
        facts.append(f"{side.circuit_calls} questions to the circuit, {changed} tokens changed by it")
    if not side.ended:
        facts.append("no end")
    in_order = sorted(side.commits, key=lambda commit: commit.position)
    tokens = "".join(_token(commit, steps, commit.position >= side.length, name) for commit in in_order)
    return f'<section><h3>{_text(title)}</h3><p>{_text("; ".join(facts))}</p><p class="tokens">{tokens}</p></section>'


def _token(commit: Commit, steps: int, cut: bool, name: Naming) -> str:
    about = f"step {commit.step}, position {commit.position}, confidence {commit.confidence:.3f}"
    about += ", by the circuit" if commit.coupled else ", by the backbone alone"
    if commit.changed:
        about += f"; the backbone's first choice here was {name(commit.expected)}"
    if cut:
        about += "; after the end, not part of the response"
    kinds = "token" + " changed" * commit.changed + " cut" * cut
    age = (commit.step - 1) / max(steps - 1, 1)
    return (
        f'<span class="{kinds}" data-step="{commit.step}" style="--age:{age:.3f}" title="{_text(about)}">'
        f"{_text(name(commit.token))}</span>"
    )


def _legend() -> str:
    ages = "".join(f'<span class="token" style="--age:{age / 4}">&nbsp;</span>' for age in range(5))
    return (
        f'<p class="legend"><span>committed early {ages} late</span>'
        '<span><span class="token changed" style="--age:0.5">word</span> changed by the circuit</span>'
        '<span><span class="token masked">word</span> still masked</span>'
        '<span><span class="token cut" style="--age:0.5">■</span> after the end</span></p>'
    )


def _pairs(pairs: Sequence[RaisedPair], number: int, name: Naming) -> str:
    if not pairs:
        return f"<section><h4>block {number}</h4><p>The circuit raised no pair here.</p></section>"
    rows = "".join(
        f"<tr><td>{_mention(pair, 0, name)} … {_mention(pair, 1, name)}</td>"
        f"<td>{pair.factorized:.2%}</td><td>{pair.coupled:.2%}</td><td>×{_ratio(pair)}</td></tr>"
        for pair in pairs
    )
    return (
        f"<section><h4>block {number}</h4><table><thead><tr><th>tokens at positions</th><th>factorized</th>"
        f"<th>coupled</th><th></th></tr></thead><tbody>{rows}</tbody></table></section>"
    )


def _mention(pair: RaisedPair, which: int, name: Naming) -> str:
    return f"<b>{_text(name(pair.tokens[which]))}</b><sub>{pair.positions[which]}</sub>"


def _ratio(pair: RaisedPair) -> str:
    ratio = pair.coupled / max(pair.factorized, 1e-12)
    return f"{ratio:.1f}" if ratio < 100 else f"{ratio:.0f}" if ratio < 1e5 else ">100000"


def _text(text: str) -> str:
    """Text as text, whatever a model or a user wrote."""
    return escape(text).translate(_TEMPLATE_MARKS)


_PAIRS_NOTE = (
    "Before the first token of each block: the exact probability of both tokens together under circuit × backbone, "
    "against the product of the backbone's two. Ranked by what a pair adds to the divergence from independence."
)
