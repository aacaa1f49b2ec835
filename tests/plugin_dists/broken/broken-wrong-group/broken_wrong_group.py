import spanhook


class Extractor:
    @spanhook.hookimpl
    def span_end(self, span, call):
        return None


class Backend:
    @spanhook.hookimpl
    def emit(self, spans):
        pass
