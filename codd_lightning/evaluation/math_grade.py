"""The grade of MATH-500 in lm-eval, by math-verify alone."""

from typing import Any


def math_verify(doc: dict[str, Any], responses: list[str]) -> dict[str, int]:
    """Whether the answer in a response equals the solution's, asked as lm-eval's `minerva_math500` does."""
    from math_verify import parse, verify

    return {"math_verify": int(verify(gold=parse(doc["solution"]), target=parse(responses[0])))}
