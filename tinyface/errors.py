"""Every way in which tinyface refuses to go on, one exception for each.

A message is one line: what is wrong, where (file, node, tensor), and what to do about it.
``exit_code`` is the status the command line ends with: 1 some inputs failed, 2 usage,
3 a model was refused.
"""


class TinyfaceError(Exception):
    """Base of everything that tinyface raises on purpose.

    documented: what failed stands in a JSON document that was printed already.
    """

    exit_code = 1
    documented = False


class UsageError(TinyfaceError):
    """An argument or an option makes no sense."""

    exit_code = 2


class MissingExtraError(UsageError):
    """A feature needs a package that the light installation does not bring.

    ``requirement`` is that of the extra in pyproject.toml. The message does not ask for
    ``tinyface[…]``: on PyPI another project has that name.
    """

    def __init__(self, requirement: str, extra: str, feature: str) -> None:
        package = requirement.partition(">")[0]
        super().__init__(
            f"{feature} needs the package '{package}' (the extra '{extra}'): install it with  "
            f"pip install '{requirement}'"
        )


class DownloadError(TinyfaceError):
    """A public file could not be fetched; the message says how to get it by hand."""


class BackendError(UsageError):
    """The engine that was asked for cannot run here (no C extension, unknown ISA…)."""


class NoKernelError(BackendError):
    """The C engine has no kernel for an operator; the NumPy engine runs every one.

    ``node`` is the operator's name in the graph.
    """

    def __init__(self, message: str, node: str = "") -> None:
        super().__init__(message)
        self.node = node


class ModelError(TinyfaceError):
    """A model was refused."""

    exit_code = 3


class GraphError(ModelError):
    """A graph is not one: a missing tensor, a cycle, shapes that do not fit."""


class AttributeBoundsError(GraphError):
    """An operator's attribute lies outside its declared bounds."""


class FormatError(ModelError):
    """A model file is malformed, truncated, or larger than the limits allow."""


class CheckpointError(FormatError):
    """A training checkpoint cannot be read, or holds something other than tensors."""


class ImageError(TinyfaceError):
    """A picture cannot be used."""


class NoFaceError(ImageError):
    """A picture in which no face was found."""


MISFITS = (GraphError, LookupError, ValueError, ArithmeticError, MemoryError)
"""What comes of building an operator from a file's numbers where these make no sense. A
``FormatError`` has been worded already, and is none of them."""


def cause(error: BaseException) -> str:
    """What the error says; Python's own about memory may say nothing."""
    return str(error) or "too much memory"
