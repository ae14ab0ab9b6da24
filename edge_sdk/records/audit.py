"""What the audit of a Q/DQ model says."""

import msgspec


class Violation(msgspec.Struct, frozen=True):
    """One rule broken at one node.

    Attributes:
        rule: ``R1`` to ``R9``.
        node: operator and name.
        message: what is wrong with it.
        remedy: what to do.
        is_refused: NVIDIA's parser refuses the model for it; otherwise it builds, but slower or less accurate.
    """

    rule: str
    node: str
    message: str
    remedy: str
    is_refused: bool


class Audit(msgspec.Struct, frozen=True):
    """All violations of one model.

    Attributes:
        opset: of the standard operators.
        pairs: DequantizeLinear nodes.
        violations: in order of the rules.
    """

    opset: int
    pairs: int
    violations: tuple[Violation, ...]

    @property
    def is_refused(self) -> bool:
        """Says whether NVIDIA's parser would refuse the model."""
        return any(violation.is_refused for violation in self.violations)
