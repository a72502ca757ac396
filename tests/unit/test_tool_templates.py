"""Chat templates say in which format a model calls tools, and go on with conversations of such calls."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from chat import Scripted
from chat import tokenizer as plain_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tool_models import MODELS, eos, renderer, tokenizer
from tool_writers import of

from areal.agents.interface import BadRequest
from areal.errors import UserError
from areal.model_check.chat import chat_findings
from areal.rollout.engine import Sampling
from areal.rollout.messages import normal
from areal.rollout.recorder import Recorder
from areal.rollout.rendering import Renderer

TOOLS = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": {"type": "object"}}}
    for name in ("f", "g")
]
USER: Any = {"role": "user", "content": "How many?"}
EACH = pytest.mark.parametrize("name", MODELS)

BEHIND = {
    "qwen2.5": "\n<|im_start|>user\n<tool_response>\nfine\n</tool_response><|im_end|>\n"
    "<|im_start|>assistant\n",
    "llama3": "<|start_header_id|>ipython<|end_header_id|>\n\nfine<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "llama3.2-python": "<|start_header_id|>ipython<|end_header_id|>\n\nfine<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "llama4": "<|header_start|>ipython<|header_end|>\n\nfine<|eot|>"
    "<|header_start|>assistant<|header_end|>\n\n",
    "mistral": "[TOOL_RESULTS]call00000[TOOL_CONTENT]fine[/TOOL_RESULTS]",
    "mistral-lists": '[TOOL_RESULTS] {"content": fine, "call_id": "call00000"}[/TOOL_RESULTS]',
    "deepseek-v3": "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>fine<｜tool▁output▁end｜>"
    "<｜tool▁outputs▁end｜>",
    "deepseek-v3.1": "<｜tool▁output▁begin｜>fine<｜tool▁output▁end｜>",
    "kimi": "<|im_system|>tool<|im_middle|>## Return of functions.f:0\nfine<|im_end|>"
    "<|im_assistant|>assistant<|im_middle|>",
    "gpt-oss": '<|start|>functions.f to=assistant<|channel|>commentary<|message|>"fine"<|end|>'
    "<|start|>assistant",
    "granite": "\n<|start_of_role|>tool<|end_of_role|>fine<|end_of_text|>\n"
    "<|start_of_role|>assistant<|end_of_role|>",
    "phi4": "<|tool|>fine<|end|><|assistant|>",
    "olmo3": "\n<|im_start|>environment\nfine<|im_end|>\n<|im_start|>assistant\n",
    "glm": "\n<tool_response>\nfine\n</tool_response><|assistant|>",
}
"""What each template has behind the end of a response that calls a tool, which says ``fine``."""


def glm(*names: str) -> str:
    return "".join(f"\n<tool_call>{name}</tool_call>" for name in names)


def call(name: str, *functions: str) -> str:
    """Calls without arguments, or with some, spelled as no template would spell them."""
    if name == "glm":
        return glm(*functions)
    return MODELS[name].write([(function, '{"x":  "é"}') for function in functions])


def answer(name: str) -> str:
    if name != "gpt-oss":
        return "It is 5."
    return "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>It is 5."


class Talk:
    """A conversation with a model that says what it is told to."""

    def __init__(self, name: str, *said: str, **settings: Any) -> None:
        self.made = tokenizer(name)
        self.said = list[list[int]]()
        self.engine = Scripted([])
        for text in said:
            self.say(text + MODELS[name].ends[-1 if "5." in text else 0])
        self.model = Recorder(
            self.engine, Renderer(self.made, eos(self.made, name), **settings), Sampling(999), 99_999
        )
        self.history: list[Any] = [USER]

    def say(self, text: str) -> None:
        """Have the model say this next."""
        self.said.append(self.made.encode(text))
        self.engine.responses.append(self.said[-1])

    async def ask(self, tools: Any = TOOLS) -> Any:
        """Have the model answer; all that it calls returns ``fine``."""
        reply = await self.model.chat(self.history, tools=tools)
        calls = reply.message.get("tool_calls", [])
        self.history += [reply.message]
        self.history += [{"role": "tool", "tool_call_id": made["id"], "content": "fine"} for made in calls]
        return reply

    @property
    def asked(self) -> str:
        return self.made.decode(self.engine.asked[-1])

    @property
    def turns(self) -> list[int]:
        found = self.model.trajectories()
        sampled = [token for t in found for token in t.tokens[t.loss_mask].tolist()]
        said = [token for ids in self.said[: len(self.engine.said)] for token in ids]
        assert sorted(sampled) == sorted(said), "what was said is trained on, token for token"
        return [len(t.turns) for t in found]


def made_by(reply: Any) -> list[tuple[str, Any]]:
    functions = [made["function"] for made in reply.message.get("tool_calls", [])]
    return [(function["name"], json.loads(function["arguments"])) for function in functions]


@EACH
def test_the_format_is_that_in_which_the_template_writes_a_call(name: str):
    made = tokenizer(name)
    assert Renderer(made, eos(made, name)).tools.format is MODELS[name].known
    (finding,) = [f for f in chat_findings(made, eos(made, name)) if f.what == "tools"]
    assert finding.sound is not False
    assert MODELS[name].known.name in finding.text


@EACH
async def test_calls_results_and_the_answer_are_one_trajectory(name: str):
    talk = Talk(name, call(name, "f"), answer(name), answer(name))
    called = await talk.ask()
    arguments = {} if name in ("glm", "olmo3", "llama3.2-python") else {"x": "é"}
    assert made_by(called) == [("f", arguments)]
    assert (called.message["content"], called.finish) == ("", "tool_calls")
    before = talk.asked
    said = await talk.ask()
    assert talk.asked == before + talk.made.decode(talk.said[0]) + BEHIND[name]
    assert (said.spoken, said.finish) == ("It is 5.", "stop")
    assert talk.turns == [2]
    talk.history.append({"role": "user", "content": "Sure?"})
    await talk.ask()
    # Its template drops what was thought, and has another token at the end of what was said.
    assert talk.turns == ([2, 1] if name == "gpt-oss" else [3])


@EACH
async def test_two_calls_have_two_results(name: str):
    talk = Talk(name, call(name, "f", "g"), answer(name))
    called = await talk.ask()
    assert [function for function, _ in made_by(called)] == ["f", "g"]
    if name == "gpt-oss":  # its template knows one call a message
        return
    await talk.ask()
    assert talk.asked.rpartition(talk.made.decode(talk.said[0]))[2].count("fine") == 2
    assert talk.turns == [2]


CUT = {"glm": "<tool_call>f\n<arg_key>x", "olmo3": "<function_calls>f(x=", "llama3.2-python": "[f(x="}


@EACH
async def test_a_broken_call_is_words_without_special_tokens(name: str):
    marks = [*MODELS[name].ends, *MODELS[name].special]
    broken = CUT[name] if name in CUT else call(name, "f").partition("é")[0]
    talk = Talk(name, broken, answer(name))
    reply = await talk.ask()
    assert made_by(reply) == []
    for text in (reply.message["content"], reply.text, reply.spoken):
        assert text
        assert [mark for mark in marks if mark in text] == []
    before, first = talk.asked, talk.made.decode(talk.said[0])
    talk.history.append({"role": "user", "content": "So?"})
    await talk.ask()
    assert talk.asked.startswith(before + first) == (name != "gpt-oss")
    assert talk.turns == ([1, 1] if name == "gpt-oss" else [2])


@EACH
async def test_no_special_token_is_in_the_words_beside_a_call(name: str):
    if name in ("gpt-oss", "llama3.2-python"):
        return
    talk = Talk(name, f"I look.\n{call(name, 'f', 'g')}", answer(name))
    reply = await talk.ask()
    assert len(made_by(reply)) == 2
    assert reply.message["content"] == "I look."


@EACH
async def test_a_history_that_was_not_sampled_here_is_shown_with_its_calls(name: str):
    """As a program has it that begins with a conversation of its own."""
    talk = Talk(name, answer(name))
    function = {"name": "f", "arguments": "{}"}
    called = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "x", "type": "function", "function": function}],
    }
    talk.history += [called, {"role": "tool", "tool_call_id": "x", "content": "fine"}]
    await talk.ask()
    shown = talk.asked.rpartition("How many?")[2]
    assert "f" in shown.partition("fine")[0]
    known = MODELS[name].known
    written = shown.partition("fine")[0]
    marks = {"glm": "<tool_call>f\n</tool_call>", "gpt-oss": "to=functions.f", "llama3.2-python": "[f()]"}
    assert marks.get(name, {"olmo3": "f()"}.get(name, "f")) in written
    assert known is talk.model._renderer.tools.format


ARGUMENTS = st.sampled_from([{}, {"x": "a b"}, {"x": 'é "q"\nb', "n": 3}, {"o": {"l": [1, None, "z"]}}])
TURNS = st.lists(st.lists(st.tuples(st.sampled_from("fg"), ARGUMENTS), max_size=2), min_size=1, max_size=6)
WRITING = [name for name in MODELS if renderer(name).tools.writes and name != "gpt-oss"]


@pytest.mark.parametrize("name", WRITING)
@settings(max_examples=20, deadline=None)
@given(turns=TURNS, beside=st.sampled_from(["", "I look."]))
def test_what_is_asked_is_what_the_template_has(name: str, turns: list[Any], beside: str):
    """Of a model that writes calls just as its template does, with results and words of the user between."""
    if name == "llama3":
        turns = [calls[:1] for calls in turns]
    if not MODELS[name].known.name.startswith(("JSON in", "tags", "DeepSeek (", "Kimi", "Python in")):
        beside = ""  # these templates leave it out, or have it elsewhere
    if name == "deepseek-v3":
        beside = ""
    talk = Talk(name)
    render = renderer(name)

    async def converse() -> None:
        for number, calls in enumerate(turns):
            functions = [{"name": function, "arguments": json.dumps(given)} for function, given in calls]
            made = [{"id": f"x{i}", "type": "function", "function": f} for i, f in enumerate(functions)]
            results = [{"role": "tool", "tool_call_id": call["id"], "content": "fine"} for call in made]
            said = {"role": "assistant", "content": beside if calls else f"It is {number}."}
            whole = [*talk.history, {**said, "tool_calls": made} if calls else said, *(results or [USER])]
            before = render.opening([normal(m) for m in talk.history], TOOLS).text
            answer = render.opening([normal(m) for m in whole], TOOLS).text.removeprefix(before)
            end = min((end for end in MODELS[name].ends if end in answer), key=answer.index)
            talk.say(answer.partition(end)[0] + end)
            reply = await talk.ask()
            assert made_by(reply) == [(function, given) for function, given in calls]
            assert talk.asked == before
            if not calls:
                talk.history.append(USER)
        assert talk.turns == [len(turns)]

    asyncio.run(converse())


async def test_ids_that_the_model_wrote_are_those_of_its_results():
    said = '[TOOL_CALLS]f[CALL_ID]a1b2c3d4e[ARGS]{"x":  1}[TOOL_CALLS]g[CALL_ID]f6g7h8i9j[ARGS]{}'
    talk = Talk("mistral", said, answer("mistral"))
    await talk.ask()
    await talk.ask()
    assert talk.asked.count("[TOOL_RESULTS]a1b2c3d4e[TOOL_CONTENT]") == 1
    assert talk.asked.count("[TOOL_RESULTS]f6g7h8i9j[TOOL_CONTENT]") == 1
    said = call("kimi", "f").replace("functions.f:0", "functions.f:7")
    talk = Talk("kimi", said, call("kimi", "f"), answer("kimi"))
    await talk.ask()
    await talk.ask()
    assert "## Return of functions.f:7\n" in talk.asked
    assert talk.turns == [2]


async def test_calls_beside_words_go_on_where_the_template_has_both():
    for name, turns in (("mistral", [2]), ("kimi", [2]), ("deepseek-v3.1", [2]), ("mistral-lists", [2])):
        talk = Talk(name, f"I look.{call(name, 'f')}", answer(name))
        assert (await talk.ask()).message["content"] == "I look."
        await talk.ask()
        assert talk.turns == turns


async def test_thoughts_before_a_call_of_gpt_oss_are_kept_until_it_has_answered():
    thought = "<|channel|>analysis<|message|>I must look.<|end|><|start|>assistant"
    talk = Talk("gpt-oss", thought + call("gpt-oss", "f"), answer("gpt-oss"), answer("gpt-oss"))
    reply = await talk.ask()
    assert reply.message["content"] == "<think>I must look.</think>"
    assert reply.thought == len(reply.message["content"])
    assert reply.spoken == ""
    await talk.ask()
    assert talk.turns == [2]
    talk.history.append({"role": "user", "content": "Sure?"})
    await talk.ask()
    assert talk.turns == [2, 1]
    assert "analysis<|message|>" not in talk.asked
    assert "final<|message|>It is 5.<|end|>" in talk.asked


async def test_words_between_a_thought_and_a_call_of_gpt_oss_are_not_in_its_template():
    thought = "<|channel|>analysis<|message|>I must look.<|end|><|start|>assistant"
    words = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
    talk = Talk("gpt-oss", thought + words + call("gpt-oss", "f"), answer("gpt-oss"))
    reply = await talk.ask()
    assert reply.message["content"] == "<think>I must look.</think>I look."
    await talk.ask()
    assert talk.turns == [1, 1]
    assert "I must look." in talk.asked


@EACH
async def test_a_conversation_goes_on_without_its_tools(name: str):
    talk = Talk(name, call(name, "f"), answer(name))
    await talk.ask()
    assert (await talk.ask(())).finish == "stop"
    assert "fine" in talk.asked
    assert len(talk.turns) in (1, 2)


async def test_gpt_oss_without_tools_thinks_and_speaks():
    talk = Talk("gpt-oss", answer("gpt-oss"))
    reply = await talk.ask(())
    assert reply.message == {"role": "assistant", "content": "<think>Hm.</think>It is 5."}
    assert (reply.spoken, reply.thought) == ("It is 5.", len("<think>Hm.</think>"))


async def test_a_template_that_shows_no_tools_and_writes_calls_has_them_described_in_its_format():
    talk = Talk("deepseek-v3.1", call("deepseek-v3.1", "f"))
    assert made_by(await talk.ask()) == [("f", {"x": "é"})]
    assert "To call one, write <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{…}" in talk.asked
    assert '"name": "g"' in talk.asked


@pytest.mark.parametrize(
    "template",
    [
        "{{ tools }}{% for m in messages %}{{ m.content }}<seed:tool_call>{{ m.tool_calls }}{% endfor %}",
        "{{ tools }}{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}<seed:tool_call>\n"
        "<function={{ c.function.name }}>\n{% for k, v in c.function.arguments | items %}<parameter={{ k }}>"
        "{{ v if v is string else v | tojson }}</parameter>\n{% endfor %}</function>\n</seed:tool_call>"
        "{% endfor %}<|im_end|>{% endfor %}",
        "{{ tools }}{% for m in messages %}{{ m.content }}{% endfor %} Write <called>[…]</called>.",
        "{% if tools %}Call them.{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}",
    ],
)
def test_an_unknown_format_is_refused_where_tools_are_used(template: str):
    made = plain_tokenizer("chatml")
    made.chat_template = template
    unread = Renderer(made, (made.eos_token_id,))
    assert unread.opening([USER]).ids, "without tools it is as good as any"
    with pytest.raises(UserError, match="a format that areal does not read \(it reads JSON in <tool_call>"):
        unread.opening([USER], TOOLS)
    with pytest.raises(UserError, match="or an agent without tools"):
        unread.check_tools()


def test_the_name_of_a_model_says_nothing():
    made = tokenizer("kimi")
    made.name_or_path = "Qwen/Qwen2.5-7B-Instruct"
    assert Renderer(made, eos(made, "kimi")).tools.format is of("Kimi")


def test_a_template_that_refuses_calls_is_asked_with_words():
    """Llama's takes one call; a model that made two goes on with what it said."""
    strict = renderer("llama3")
    calls = [{"id": str(i), "type": "function", "function": {"name": "f", "arguments": {}}} for i in range(2)]
    with pytest.raises(BadRequest, match="single tool-calls"):
        strict.opening([USER, {"role": "assistant", "content": "", "tool_calls": calls}, USER], TOOLS)
