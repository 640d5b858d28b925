"""What a file reads, seen in its text: values of ``cfg``, and features of the networks."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Reads", "reads_of"]

TAPS = {"feats": ("stem", "stages"), "preact_feats": ("stem", "stages.pre"), "pooled_feat": ("embedding",)}
"""The taps that give each feature."""
MEANS_FEATS = ("get_feat_shapes", "get_stage_channels")
"""Names whose use needs the shapes of ``feats``."""
OF_A_TABLE = ("clone", "copy", "get", "items", "keys", "pop", "values")
"""Methods of a table of ``cfg``; what stands before them is the table."""


@dataclass
class Reads:
    """What a file reads.

    Attributes:
        cfg: dotted names of values or whole tables of ``cfg``.
        whole_cfg: whether ``cfg`` itself is handed to something, so that more values may be read than the text shows.
        features: names of features.
        loss_ce: whether the file names a term ``loss_ce``.
        moves: whether it moves tensors to a GPU by itself.
    """

    cfg: set[str] = field(default_factory=set)
    whole_cfg: bool = False
    features: set[str] = field(default_factory=set)
    loss_ce: bool = False
    moves: bool = False

    @property
    def taps(self) -> tuple[str, ...]:
        """The taps that give all of it."""
        wanted = [tap for name, taps in TAPS.items() if name in self.features for tap in taps]
        return tuple(dict.fromkeys(["logits", *wanted]))


def reads_of(sources: Iterable[str], root: str = "cfg") -> Reads:
    """What the texts of some modules read.

    Args:
        sources: the texts.
        root: name of the variable that holds ``cfg``.
    """
    visitor = _Visitor(root)
    for source in sources:
        visitor.visit(ast.parse(source))
    return visitor.reads


class _Visitor(ast.NodeVisitor):
    def __init__(self, root: str) -> None:
        self.root = root
        self.reads = Reads()

    def visit_Constant(self, node: ast.Constant) -> None:
        """Features are read by name."""
        if node.value in TAPS:
            self.reads.features.add(str(node.value))
        self.reads.loss_ce |= node.value == "loss_ce"

    def visit_Name(self, node: ast.Name) -> None:
        """Helpers that read features inside."""
        if node.id in MEANS_FEATS:
            self.reads.features.add("feats")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """A chain such as ``cfg.DKD.ALPHA`` is one value; its beginnings are not read for themselves."""
        self._note(node)
        if node.attr in MEANS_FEATS:
            self.reads.features.add("feats")
        self.reads.moves |= node.attr == "cuda"

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """``cfg["DKD"]["ALPHA"]`` too."""
        self._note(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Something may receive all of ``cfg``; the parent's constructor does, and is seen where it stands."""
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        if any(self._keys(argument) == [] for argument in arguments) and not _calls_parent(node.func):
            self.reads.whole_cfg = True
        self.generic_visit(node)

    def _note(self, node: ast.Attribute | ast.Subscript) -> None:
        keys = self._keys(node)
        if keys is None:
            self.generic_visit(node)
            return
        table = keys[:-1] if keys[-1] in OF_A_TABLE else keys
        if table:
            self.reads.cfg.add(".".join(table))

    def _keys(self, node: ast.expr) -> list[str] | None:
        """The names behind ``cfg`` or ``self.cfg``; empty for these themselves, None for anything else."""
        if isinstance(node, ast.Name):
            return [] if node.id == self.root else None
        if isinstance(node, ast.Attribute):
            before, last = node.value, node.attr
            if isinstance(before, ast.Name) and before.id == "self":
                return [] if last == self.root else None
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            before, last = node.value, node.slice.value
        else:
            return None
        keys = self._keys(before)
        return None if keys is None else [*keys, last]


def _calls_parent(function: ast.expr) -> bool:
    return isinstance(function, ast.Attribute) and function.attr == "__init__"
