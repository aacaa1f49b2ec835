import spanhook


class Twin:
    @spanhook.hookimpl
    def emit(self, spans):
        pass
