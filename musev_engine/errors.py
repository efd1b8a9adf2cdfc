"""What the engine says when it can't: the problem, the value that caused it, the remedy."""


class EngineError(ValueError):
    """An input, a file or a model that doesn't do; nothing was made.

    `code` is short and stable, for programs; `message`, `value` and `remedy` are for people.
    """

    def __init__(self, message: str, value: object, remedy: str, code: str = "bad_request"):
        super().__init__(f"{message} (got {value}). {remedy}")
        self.code, self.message, self.value, self.remedy = code, message, str(value), remedy
