"""The error that models raise when a directory, a text or a setting cannot be used."""


class ModelError(ValueError):
    """Report what is wrong with a model, its files or its inputs: what, where, got, expected, fix.

    All fields go to ``super().__init__`` so that the error survives pickling between processes; the text is
    made in ``__str__``.

    Args:
        what: What is wrong, as a short clause.
        where: The directory, file or setting it concerns.
        got: The value found.
        expected: What would have been right.
        fix: What to do or to type.
    """

    def __init__(self, what: str, where: str = "", got: str = "", expected: str = "", fix: str = "") -> None:
        super().__init__(what, where, got, expected, fix)

    def __str__(self) -> str:
        what, where, got, expected, fix = self.args
        lines = [f"{where}: {what}" if where else what]
        lines += [
            f"  {name}: {value}"
            for name, value in (("got", got), ("expected", expected), ("fix", fix))
            if value
        ]
        return "\n".join(lines)
