"""A ReAct-like agent (arXiv 2210.03629) whose only tool is Python, in the sandbox.

A tool call is a code block, which any model can write, even if its chat template does not support tools.
"""

from __future__ import annotations

from collections.abc import Sequence

from areal.agents.chat import Chat, checked_limits
from areal.agents.interface import Env, Model
from areal.envs.code import ENDINGS, shortened
from areal.envs.code_blocks import code_block
from areal.envs.pictures import with_text
from areal.sandbox.interface import (
    Opaque,
    Outcome,
    Returned,
    SandboxLimits,
    SandboxSession,
    SandboxUnavailable,
)
from areal.sandbox.shared import shared_sandbox
from areal.spans import span

HINT = "\nTo run Python first, put the code in a ```python block."


class PythonTool:
    """Runs the code blocks in the model's responses. A response without one is the action in the environment.

    The interpreter keeps its variables during the episode. The model sees the output of the code, the value
    of a last expression, or the error. When the turns are used up, the last response is the action, whatever
    it contains. For environments whose answers are code, use ``multi-turn``.

    Args:
        max_turns: maximum number of responses in an episode, with and without code.
        max_tokens: maximum number of sampled tokens in an episode; None: no separate limit.
        hint: text at the end of the first observation that tells the model about the tool.
        sandbox: where the code runs: ``local``, ``container``, ``e2b`` or a registered one.
        allow_weak: accept a weak local sandbox.
        time_limit: time limit of one run, in seconds.
        packages: packages that the code can import besides the standard library, such as ``[numpy]``.

    Raises:
        UserError: a limit is too small, or there is no sandbox.
    """

    def __init__(
        self,
        max_turns: int = 4,
        max_tokens: int | None = None,
        hint: str = HINT,
        sandbox: str = "local",
        allow_weak: bool = False,
        time_limit: float = 6.0,
        packages: Sequence[str] = (),
    ) -> None:
        checked_limits("python-tool", max_turns, max_tokens)
        self._limits = max_turns, max_tokens
        self._hint = hint
        self._run_limits = SandboxLimits(wall_s=time_limit)
        self._sandbox = shared_sandbox("python-tool", "agent_options", sandbox, allow_weak, packages)

    async def run(self, env: Env, model: Model) -> None:
        """Run one episode."""
        *before, asked = await env.open()
        chat = Chat(
            model, [*before, {**asked, "content": with_text(asked["content"], self._hint)}], *self._limits
        )
        session: SandboxSession | None = None
        try:
            while (reply := await chat.ask()) is not None:
                code = code_block(reply.spoken)
                if code is None or chat.over:
                    step = await env.step(reply.spoken)
                    if step.done:
                        return
                    chat.append(step.observation)
                    continue
                with span("tool", "python"):
                    session = session or await self._sandbox.session(self._run_limits)
                    outcome = await session.run(code)
                chat.append(seen(outcome))
        finally:
            if session is not None:
                await session.close()


def seen(outcome: Outcome) -> str:
    """Return what the model sees of a run: its output, then the value of a last expression, or the error.

    Raises:
        SandboxUnavailable: the sandbox failed, which is not an observation.
    """
    if outcome.status == "infra_error":
        raise SandboxUnavailable(outcome.error)
    lines = [outcome.stdout.rstrip("\n")]
    for value in outcome.values:
        if isinstance(value, Returned) and value.value is not None:
            lines.append(str(value.value))
        elif isinstance(value, Opaque):
            lines.append(f"<{value.type_name}>")
    if outcome.status != "ok":
        lines.append(outcome.error.rstrip() or ENDINGS.get(outcome.status, outcome.status))
    return shortened("\n".join(line for line in lines if line)) or "There is no output."
