"""The one exception that a user may see without a traceback."""


class UserError(Exception):
    """Report a mistake that the user can mend: what, where, got, expected, fix.

    All fields go to ``super().__init__`` so that the error survives pickling between processes; the text is
    made in ``__str__``.

    Args:
        what: What is wrong, as a short clause.
        where: The key, file, row or object it concerns.
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
