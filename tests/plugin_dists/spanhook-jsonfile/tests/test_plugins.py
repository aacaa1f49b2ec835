import json

import dspy
import pytest
import spanhook
from dspy.utils import DummyLM
from spanhook.testing import capture_spans


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spans.jsonl"


@pytest.fixture
def tracer(path):
    dspy.configure(lm=DummyLM([{"answer": "It is Paris"}]))
    tracer = spanhook.configure(
        {
            "tracing": {"extractors": ["answer_length"], "backends": ["jsonfile"]},
            "backends": {"jsonfile": {"path": str(path)}},
        }
    )
    yield tracer
    tracer.shutdown()


def test_the_extractor_counts_words(tracer):
    with capture_spans() as spans:
        dspy.Predict("question -> answer")(question="What is the capital of France?")
    module = spans[-1]
    assert module.attributes["answer_words"] == 3
    assert module.sources["attributes.answer_words"] == "answer_length"


def test_the_backend_writes_spans_and_signals(tracer, path):
    with tracer.interaction(user_id="u1") as interaction:
        dspy.Predict("question -> answer")(question="What is the capital of France?")
    tracer.track_signal(interaction.event_id, "thumbs_up", "feedback", comment="Right!")
    assert tracer.flush()
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [r["kind"] for r in records if r["record"] == "span"][-2:] == ["module", "interaction"]
    assert records[-1]["comment"] == "Right!"
    assert {r["event_id"] for r in records} == {interaction.event_id}


def test_a_missing_folder_is_an_error_at_once(tmp_path):
    options = {"path": str(tmp_path / "nowhere" / "spans.jsonl")}
    with pytest.raises(spanhook.ConfigError, match="there is no folder"):
        spanhook.configure({"tracing": {"backends": ["jsonfile"]}, "backends": {"jsonfile": options}})
