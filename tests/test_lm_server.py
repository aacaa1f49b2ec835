"""The tests' own language model, driven by real DSPy over HTTP: what it answers, and that no number is mixed up."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import inspect
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pytest

from lm_server import LMServer, Reply, Tokens

HAS_ENGINES = "engine" in inspect.signature(dspy.LM.__init__).parameters
ENGINES = ["lm15", "litellm"] if HAS_ENGINES else ["litellm"]
needs_mcp = pytest.mark.skipif(importlib.util.find_spec("mcp") is None, reason="LiteLLM's Responses API imports mcp")


@pytest.fixture
def server() -> Iterator[LMServer]:
    with LMServer() as running:
        yield running


def ask(lm: Any, signature: str = "question -> answer", adapter: Any = None) -> Any:
    with dspy.context(lm=lm, adapter=adapter or dspy.ChatAdapter()):
        return dspy.Predict(signature)(question="?")


def post(
    server: LMServer, body: Any, path: str = "/v1/chat/completions", times: int = 1
) -> list[tuple[int, bytes, Any]]:
    """Send a request, `times` over one connection, without any client library."""
    host = server.url.removeprefix("http://").removesuffix("/v1")
    connection = http.client.HTTPConnection(host, timeout=10)
    answers = []
    try:
        for _ in range(times):
            connection.request("POST", path, body if isinstance(body, str) else json.dumps(body))
            response = connection.getresponse()
            answers.append((response.status, response.read(), response.headers))
    finally:
        connection.close()
    return answers


def said_by(entry: dict[str, Any]) -> tuple[Any, ...]:
    """Tokens, model and finish reason as DSPy's history has them, on either engine."""
    response, usage = entry["response"], entry["usage"]
    finish_reason = getattr(response, "finish_reason", None) or response.choices[0].finish_reason
    details = dict(usage["prompt_tokens_details"]), dict(usage["completion_tokens_details"])
    counts = usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]
    return (
        *counts,
        details[0]["cached_tokens"],
        details[1]["reasoning_tokens"],
        entry["response_model"],
        finish_reason,
    )


def told_by(server: LMServer, text: str) -> tuple[Any, ...]:
    """The same as the server sent them."""
    answered = server.answer_to(text)
    tokens = answered.tokens
    counts = tokens.prompt, tokens.completion, tokens.total, tokens.cached, tokens.reasoning
    return (*counts, answered.response_model, answered.finish_reason)


@pytest.mark.parametrize("engine", ENGINES)
def test_each_call_of_many_threads_gets_numbers_of_its_own(server: LMServer, engine: str) -> None:
    """1,024 calls over 16 threads: every entry of DSPy's history has what the server sent with that very text."""
    lm = server.lm(engine=engine)

    def calls(_: int) -> list[str]:
        return [lm("hello")[0] for _ in range(64)]

    with ThreadPoolExecutor(16) as pool:
        texts = [text for part in pool.map(calls, range(16)) for text in part]

    assert sorted(texts) == sorted(f"answer-{serial}" for serial in range(1, 1025))
    assert [said_by(entry) for entry in lm.history] == [told_by(server, entry["outputs"][0]) for entry in lm.history]
    assert len({answered.tokens for answered in server.answered.values()}) == 1024


def test_64_requests_are_answered_at_the_same_time(server: LMServer) -> None:
    """All 64 are inside the server before the first is answered."""
    gate = threading.Event()
    server.script([Reply(hold=gate)] * 64)
    with ThreadPoolExecutor(64) as pool:
        answers = [pool.submit(post, server, {"model": "m", "messages": []}) for _ in range(64)]
        server.wait_received(64)
        assert not any(answer.done() for answer in answers)
        gate.set()
        assert {answer.result()[0][0] for answer in answers} == {200}


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter(), dspy.JSONAdapter()], ids=["chat", "json"])
@pytest.mark.parametrize("engine", ENGINES)
def test_output_fields_are_answered_as_the_adapter_asks(server: LMServer, engine: str, adapter: Any) -> None:
    """Every output field has the serial in it, as a value of its type, with no second request."""
    signature = "question -> answer, score: int, share: float, sure: bool, tags: list[str], kind: Literal['a', 'b']"
    prediction = ask(server.lm(engine=engine), signature, adapter)
    assert (prediction.answer, prediction.score, prediction.share, prediction.sure) == ("answer-1", 1, 1.0, True)
    assert (prediction.tags, prediction.kind) == (["tags-1"], "a")
    assert len(server.answered) == 1


def test_xml_fields_are_answered_too(server: LMServer) -> None:
    """The XML adapter names no types, so its fields are strings."""
    assert ask(server.lm(), adapter=dspy.XMLAdapter()).answer == "answer-1"
    assert len(server.answered) == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_text_completions(server: LMServer, engine: str) -> None:
    """`model_type="text"` goes to /completions, with the same numbers."""
    lm = server.lm(model_type="text", **({"engine": engine} if engine == "litellm" else {}))
    answer = ask(lm).answer
    assert server.answer_to(answer).path == "/v1/completions"
    assert said_by(lm.history[-1]) == told_by(server, answer)


@pytest.mark.parametrize("engine", [pytest.param(e, marks=needs_mcp) if e == "litellm" else e for e in ENGINES])
def test_responses_api(server: LMServer, engine: str) -> None:
    """`model_type="responses"` goes to /responses; its usage and its ending are the same numbers in other words."""
    lm = server.lm(model_type="responses", engine=engine)
    answer = ask(lm).answer
    told, entry = server.answer_to(answer), lm.history[-1]
    usage = entry["usage"]
    assert (told.path, told.finish_reason) == ("/v1/responses", "length")
    assert usage.get("input_tokens", usage.get("prompt_tokens")) == told.tokens.prompt
    ending = getattr(entry["response"], "finish_reason", None) or entry["response"].incomplete_details.reason
    assert ending in ("length", "max_output_tokens")
    assert entry["response_model"] == told.response_model


@pytest.mark.parametrize("engine", ENGINES)
def test_three_candidates(server: LMServer, engine: str) -> None:
    """The native engine asks three times, LiteLLM once for three: the texts tell which."""
    prediction = ask(server.lm(engine=engine, n=3, temperature=1.0))
    texts = [candidate["answer"] for candidate in prediction.completions]
    assert texts == (
        ["answer-1", "answer-2", "answer-3"] if engine == "lm15" else ["answer-1", "answer-1.1", "answer-1.2"]
    )
    assert [server.answer_to(text).serial for text in texts] == ([1, 2, 3] if engine == "lm15" else [1, 1, 1])


async def stream(lm: Any) -> list[Any]:
    with dspy.context(lm=lm, track_usage=True):
        listener = dspy.streaming.StreamListener(signature_field_name="answer")
        program = dspy.streamify(dspy.Predict("question -> answer"), stream_listeners=[listener])
        return [item async for item in program(question="?")]


@pytest.mark.parametrize("engine", ENGINES)
def test_streaming(server: LMServer, engine: str) -> None:
    """Chunks reach DSPy's listener; the usage comes with them because it was asked for."""
    lm = server.lm(engine=engine)
    *pieces, prediction = asyncio.run(stream(lm))
    assert "".join(piece.chunk for piece in pieces).strip() == prediction.answer == "answer-1"
    told, usage = server.answer_to("answer-1"), lm.history[-1]["usage"]
    assert told.body["stream"] is True
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (told.tokens.prompt, told.tokens.completion)


@pytest.mark.skipif(not HAS_ENGINES, reason="LiteLLM does not stream the Responses API for DSPy")
def test_streaming_responses(server: LMServer) -> None:
    """The native engine streams /responses."""
    *pieces, prediction = asyncio.run(stream(server.lm(model_type="responses", engine="lm15")))
    assert "".join(piece.chunk for piece in pieces) == prediction.answer == "answer-1"
    assert server.answer_to("answer-1").body["stream"] is True


@pytest.mark.parametrize("asked", [True, False])
def test_a_stream_has_usage_only_if_asked(server: LMServer, asked: bool) -> None:
    """`stream_options.include_usage` decides, as with OpenAI."""
    options = {"stream_options": {"include_usage": True}} if asked else {}
    [(_, body, _)] = post(server, {"model": "m", "messages": [], "stream": True, **options})
    *events, done = [line.removeprefix("data: ") for line in body.decode().split("\n\n") if line]
    assert done == "[DONE]"
    last = json.loads(events[-1])
    assert (last.get("usage", {}).get("total_tokens") == server.answered[1].tokens.total) is asked


def test_a_stream_can_be_held_after_its_first_text(server: LMServer) -> None:
    """The first piece is there while the rest is not: what a test of the time to the first token needs."""
    gate = threading.Event()
    server.script([Reply(chunks=["one ", "two"], stream_hold=gate)])
    connection = http.client.HTTPConnection(server.url.split("/")[2], timeout=10)
    connection.request("POST", "/v1/chat/completions", json.dumps({"model": "m", "messages": [], "stream": True}))
    response = connection.getresponse()
    first = b""
    while b"one " not in first:
        first += response.read1()
    assert b"two" not in first
    gate.set()
    assert b"two" in response.read()
    connection.close()


@pytest.mark.parametrize("status", [401, 429, 500])
@pytest.mark.parametrize("engine", ENGINES)
def test_errors_reach_the_caller_once(server: LMServer, engine: str, status: int) -> None:
    """A scripted error is DSPy's exception, not retried by any client underneath."""
    server.script([Reply(status=status, retry_after_s=0)])
    with pytest.raises(Exception, match="scripted error for request 1"):
        server.lm(engine=engine)("hello")
    assert [answered.status for answered in server.answered.values()] == [status]
    assert server.answered[1].tokens is None


@pytest.mark.parametrize("engine", ENGINES)
def test_a_retry_is_a_request_of_its_own(server: LMServer, engine: str) -> None:
    """After a 429 the second request answers, with the second serial."""
    server.script([Reply(status=429, retry_after_s=0)])
    assert ask(server.lm(engine=engine, num_retries=1)).answer == "answer-2"


def test_errors_look_like_those_of_openai(server: LMServer) -> None:
    """Message, type and code, the Retry-After header, and 404 and 400 for what the server does not take."""
    server.script([Reply(status=429, retry_after_s=1.5), Reply(status=400, error_code="context_length_exceeded")])
    [(_, limited, headers), (_, too_long, _)] = post(server, {"model": "m", "messages": []}, times=2)
    assert headers["Retry-After"] == "1.5"
    assert json.loads(limited)["error"]["code"] == "rate_limit_exceeded"
    assert json.loads(too_long)["error"]["code"] == "context_length_exceeded"
    [(status, unknown, _)] = post(server, {}, "/v1/embeddings")
    assert (status, set(json.loads(unknown)["error"])) == (404, {"message", "type", "param", "code"})
    assert post(server, "no json")[0][0] == 400
    assert len(server.answered) == 2


@pytest.mark.parametrize("streamed", [True, False])
def test_a_body_can_break_off(server: LMServer, streamed: bool) -> None:
    """The connection closes in the middle, and the next request is answered as if nothing had been."""
    server.script([Reply("a long answer", break_off=True)])
    with pytest.raises(http.client.IncompleteRead):
        post(server, {"model": "m", "messages": [], "stream": streamed})
    assert post(server, {"model": "m", "messages": []})[0][0] == 200


@pytest.mark.parametrize("engine", ENGINES)
def test_a_broken_body_is_an_error_in_dspy(server: LMServer, engine: str) -> None:
    """Nothing half read is taken for an answer."""
    server.script([Reply("a long answer", break_off=True)])
    lm = server.lm(engine=engine)
    with pytest.raises(Exception, match=r"(?i)connection"):
        lm("hello")
    assert lm.history == []


@pytest.mark.parametrize("engine", ENGINES)
def test_react_follows_a_script(server: LMServer, engine: str) -> None:
    """A list of dicts drives an agent: one tool call, finish, then the extraction that nobody scripted."""
    server.script(
        [
            {"next_thought": "thought-{serial}", "next_tool_name": "add", "next_tool_args": {"a": 2, "b": 3}},
            {"next_thought": "thought-{serial}", "next_tool_name": "finish", "next_tool_args": {}},
        ]
    )

    def add(a: int, b: int) -> int:
        return a + b

    with dspy.context(lm=server.lm(engine=engine)):
        prediction = dspy.ReAct("question -> answer", tools=[add])(question="?")
    assert prediction.trajectory["observation_0"] == 5
    assert prediction.trajectory["thought_1"] == "thought-2"
    assert (prediction.answer, prediction.reasoning) == ("answer-3", "reasoning-3")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_reply_says_everything(server: LMServer, engine: str) -> None:
    """Tool calls, thoughts, model and usage as scripted, token kinds that nobody counted left out."""
    server.script([Reply("hi", tool_calls=[("add", {"a": 1})], reasoning_content="hm", model="x", tokens=Tokens(8, 5))])
    lm = server.lm(engine=engine)
    [output] = lm("hello")
    assert output["text"] == "hi"
    assert output.get("reasoning_content", "hm") == "hm"  # DSPy 3.0 drops it
    assert output["tool_calls"][0].function.name == "add"
    assert (lm.history[-1]["usage"]["prompt_tokens"], lm.history[-1]["response_model"]) == (8, "x")
    assert server.answer_to("hi").finish_reason == "tool_calls"
    assert json.loads(post(server, {"messages": [], "model": "m"})[0][1])["usage"]["prompt_tokens_details"]


def test_an_answer_without_usage(server: LMServer) -> None:
    """`tokens=None` leaves the usage out."""
    server.script([Reply("hi", tokens=None)])
    assert "usage" not in json.loads(post(server, {"model": "m", "messages": []})[0][1])


def test_a_function_can_answer_by_request() -> None:
    """`respond` sees each request's JSON, which a script by order can't under concurrency; None is the default."""
    with LMServer(lambda body: "for b" if body["model"] == "b" else None, finish_reasons=["stop"]) as server:
        assert server.lm("openai/b")("hello") == ["for b"]
        assert server.lm("openai/a")("hello") == ["answer-2"]
        assert {answered.finish_reason for answered in server.answered.values()} == {"stop"}


def test_it_ends_with_nothing_left() -> None:
    """A kept connection and a held request do not outlive the `with` block; nor does a thread or the port."""
    before = set(threading.enumerate())
    with ThreadPoolExecutor(1) as pool:
        with LMServer() as server:
            idle = http.client.HTTPConnection(server.url.split("/")[2], timeout=10)
            idle.request("POST", "/v1/completions", '{"prompt": ""}')
            idle.getresponse().read()
            server.script([Reply(hold=threading.Event())])
            held = pool.submit(post, server, {"model": "m", "messages": []})
            server.wait_received(2)
        held.exception(timeout=10)  # answered or cut off, but not waiting
    assert set(threading.enumerate()) <= before
    idle.close()
    with pytest.raises(ConnectionRefusedError):
        post(server, {})
