"""The extractor `answer_length`: how many words a module answered with."""

import spanhook


class AnswerLengthExtractor:
    """Counts the words of one output field."""

    class Options(spanhook.PluginOptions):
        """`[extractors.answer_length]` in tracing.toml."""

        field: str = "answer"

    def __init__(self, options: Options) -> None:
        self._field = options.field

    @spanhook.hookimpl
    def span_end(self, call: spanhook.Call) -> spanhook.Facts | None:
        """Look at what the module returned; it is the program's own object."""
        answer = getattr(call.outputs, self._field, None)
        if call.kind != "module" or not isinstance(answer, str):
            return None
        return {"attributes": {f"{self._field}_words": len(answer.split())}}
