"""Rows of NeMo Gym, as far as areal's verifiers can judge them.

A row has the prompt in ``responses_create_params``, and the data with which its server judges. Rows of mcqa,
math_with_judge and similar servers have ``expected_answer`` and are read like other rows (areal.envs.forms,
areal.envs.choices). Rows of code_gen have unit tests (areal.envs.code_problems).
"""

from __future__ import annotations

from areal.envs.forms import as_text, at
from areal.envs.rows import Row
from areal.errors import UserError

_BOXED = ("strict_single_letter_boxed", "lenient_boxed")


def refuse_other_judges(row: Row, where: str) -> None:
    """Refuse a row of NeMo Gym whose answer is not judged as a final answer in a box.

    Raises:
        UserError: unit tests judge it, or its answer must have another form; the message begins with
            ``where``.
    """
    if "responses_create_params" not in row:
        return
    if at(row, "verifier_metadata.unit_tests") is not None:
        raise UserError(f"{where}: unit tests judge this row of NeMo Gym; use code-v1 (env_options.data)")
    pattern, mode = as_text(at(row, "template_metadata.output_regex")), as_text(row.get("grading_mode"))
    if pattern is not None or mode not in (None, *_BOXED):
        raise UserError(
            f"{where}: this row of NeMo Gym asks for an answer in a form other than \\boxed{{}} "
            f"({pattern or mode}); use data-v1 with answer='{{expected_answer}}', prompt='{{problem}}' and "
            "your own verifier for this form (verifier=FILE.py:FUNCTION)"
        )
    if at(row, "expected_answer") is None and "verifier_metadata" in row and not _answered(row):
        agent = as_text(at(row, "agent_ref.name"))
        raise UserError(
            f"{where}: this row of NeMo Gym has no expected_answer, because its own "
            f"server{f' ({agent})' if agent else ''} judges it; areal reads rows with expected_answer "
            "(mcqa, math_with_judge), and rows with verifier_metadata.unit_tests (code_gen, with code-v1)"
        )


def _answered(row: Row) -> bool:
    return as_text(at(row, "verifier_metadata.expected_answer")) is not None
