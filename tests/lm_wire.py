"""How OpenAI's protocol spells an answer: chat completions, completions and responses, whole and streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lm_replies import Answer, Body, Tokens


def usage_body(tokens: Tokens, prompt: str, completion: str) -> Body:
    """The usage object; chat calls its two sides prompt and completion, the Responses API input and output."""
    ins = {"cached_tokens": tokens.cached, "cache_write_tokens": tokens.cache_write, "audio_tokens": tokens.audio_in}
    outs = {"reasoning_tokens": tokens.reasoning, "audio_tokens": tokens.audio_out}
    usage: Body = {f"{prompt}_tokens": tokens.prompt, f"{completion}_tokens": tokens.completion}
    usage["total_tokens"] = tokens.total
    for side, details in ((prompt, ins), (completion, outs)):
        if known := {name: count for name, count in details.items() if count is not None}:
            usage[f"{side}_tokens_details"] = known
    return usage


def error_body(status: int, message: str, code: str | None = None) -> Body:
    """An error as OpenAI sends it."""
    kind, usual = {
        400: ("invalid_request_error", "invalid_value"),
        401: ("invalid_request_error", "invalid_api_key"),
        404: ("invalid_request_error", "not_found"),
        429: ("requests", "rate_limit_exceeded"),
    }.get(status, ("server_error", "server_error"))
    return {"error": {"message": message, "type": kind, "param": None, "code": code or usual}}


def chat_body(answer: Answer) -> Body:
    """The answer of `/chat/completions`."""
    message: Body = {"role": "assistant"}
    if answer.reply.reasoning_content:
        message["reasoning_content"] = answer.reply.reasoning_content
    if answer.tool_calls:
        message["tool_calls"] = [_chat_call(*call) for call in answer.tool_calls]
    choices = [
        {"index": i, "message": {**message, "content": text}, "logprobs": None, "finish_reason": answer.finish_reason}
        for i, text in enumerate(answer.texts)
    ]
    return _completion(answer, "chat.completion", choices, usage=True)


def text_body(answer: Answer) -> Body:
    """The answer of `/completions`."""
    choices = [
        {"index": i, "text": text, "logprobs": None, "finish_reason": answer.finish_reason}
        for i, text in enumerate(answer.texts)
    ]
    return _completion(answer, "text_completion", choices, usage=True)


def _completion(answer: Answer, kind: str, choices: Sequence[Body], *, usage: bool) -> Body:
    head = {"id": f"cmpl-{answer.serial}", "object": kind, "created": 1_700_000_000 + answer.serial}
    shown = {"usage": usage_body(answer.tokens, "prompt", "completion")} if usage and answer.tokens else {}
    return {**head, "model": answer.model, "choices": list(choices), **shown}


def _chat_call(call_id: str, name: str, arguments: str) -> Body:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def chat_stream(answer: Answer, *, include_usage: bool) -> Iterator[Body]:
    """The chunks of a streamed `/chat/completions`; usage comes last, and only where it was asked for."""

    def chunk(index: int, delta: Body, finish_reason: str | None = None) -> Body:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _completion(answer, "chat.completion.chunk", [choice], usage=False)

    for i, text in enumerate(answer.texts):
        yield chunk(i, {"role": "assistant", "content": ""})
        if answer.reply.reasoning_content:
            yield chunk(i, {"reasoning_content": answer.reply.reasoning_content})
        yield from (chunk(i, {"content": piece}) for piece in answer.pieces(text))
        for position, call in enumerate(answer.tool_calls):
            yield chunk(i, {"tool_calls": [{"index": position, **_chat_call(*call)}]})
        yield chunk(i, {}, answer.finish_reason)
    if include_usage and answer.tokens:
        yield _completion(answer, "chat.completion.chunk", [], usage=True)


def has_text(event: Body) -> bool:
    """Whether a chunk or an event of a stream carries text of the answer."""
    choices = event.get("choices") or [{}]
    return bool((choices[0].get("delta") or {}).get("content") or event.get("type") == "response.output_text.delta")


def responses_body(answer: Answer) -> Body:
    """The answer of `/responses`; it has one text only, and a status where chat has a finish reason."""
    output: list[Body] = []
    if thought := answer.reply.reasoning_content:
        summary = [{"type": "summary_text", "text": thought}]
        output.append({"id": f"rs_{answer.serial}", "type": "reasoning", "summary": summary})
    if (text := answer.texts[0]) is not None:
        content = [{"type": "output_text", "text": text, "annotations": []}]
        message = {"id": f"msg_{answer.serial}", "type": "message", "role": "assistant", "status": "completed"}
        output.append({**message, "content": content})
    for call_id, name, arguments in answer.tool_calls:
        call = {"id": f"f{call_id}", "type": "function_call", "call_id": call_id, "name": name, "status": "completed"}
        output.append({**call, "arguments": arguments})
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(answer.finish_reason)
    return {
        "id": f"resp_{answer.serial}",
        "object": "response",
        "created_at": 1_700_000_000 + answer.serial,
        "status": "incomplete" if reason else "completed",
        "error": None,
        "incomplete_details": {"reason": reason} if reason else None,
        "model": answer.model,
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage_body(answer.tokens, "input", "output") if answer.tokens else None,
    }


def responses_stream(answer: Answer) -> Iterator[Body]:
    """The events of a streamed `/responses`."""
    whole = responses_body(answer)
    yield {"type": "response.created", "response": {**whole, "status": "in_progress", "output": [], "usage": None}}
    for i, item in enumerate(whole["output"]):
        where = {"output_index": i, "item_id": item["id"]}
        unfilled: Body = {"message": {"content": []}, "function_call": {"arguments": ""}, "reasoning": {"summary": []}}
        yield {"type": "response.output_item.added", "output_index": i, "item": {**item, **unfilled[item["type"]]}}
        if item["type"] == "message":
            for piece in answer.pieces(item["content"][0]["text"]):
                yield {"type": "response.output_text.delta", **where, "content_index": 0, "delta": piece}
        elif item["type"] == "function_call":
            yield {"type": "response.function_call_arguments.delta", **where, "delta": item["arguments"]}
        else:
            thought = item["summary"][0]["text"]
            yield {"type": "response.reasoning_summary_text.delta", **where, "summary_index": 0, "delta": thought}
        yield {"type": "response.output_item.done", "output_index": i, "item": item}
    yield {"type": f"response.{whole['status']}", "response": whole}
