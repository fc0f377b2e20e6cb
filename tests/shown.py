"""The commands that README and docs show, one by one, as a shell would read them."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "slurm" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A line of indented code that is a command, not a message such as `codd: ...` or a list of folders.
INDENTED = re.compile(r"^    ((?:[A-Z_]+=\S+ )*(?:codd|make|pip|python|sbatch|tensorboard|torchrun) .*)$", re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language on a page."""
    return [body for found, body in FENCE.findall(page.read_text()) if found == language]


def shown_commands(page: Path) -> list[str]:
    """Every command line in fenced shell blocks and in indented code, without comments and line breaks."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    lines += INDENTED.findall(FENCE.sub("", page.read_text()))
    return [command for line in lines if (command := re.sub(r"(^|\s+)# .*$", "", line).strip())]


def words_of(command: str) -> list[str]:
    """The words of a command line, with `{a,b}` of a bare word spelt out as a shell does."""
    words: list[str] = []
    for raw in re.findall(r"(?:'[^']*'|\"[^\"]*\"|\S)+", command):
        (word,) = shlex.split(raw)
        several = re.fullmatch(r"([^'\"{}]*)\{([^'\"{}]*,[^'\"{}]*)\}([^'\"{}]*)", raw)
        if several:
            before, between, after = several.groups()
            words += [f"{before}{choice}{after}" for choice in between.split(",")]
        else:
            words.append(word)
    return words
