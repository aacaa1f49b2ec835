import dspy
import spanhook
from dspy.utils import DummyLM

dspy.configure(lm=DummyLM([{"answer": "It is Paris"}]))
tracer = spanhook.configure()

with tracer.interaction(user_id="u1", event="chat") as interaction:
    prediction = dspy.Predict("question -> answer")(question="What is the capital of France?")
print(prediction.answer)

tracer.identify("u1", {"plan": "pro"})
tracer.track_signal(interaction.event_id, "thumbs_up", "feedback", comment="Right!")
tracer.shutdown()
