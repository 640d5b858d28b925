"""The contract of a method, as a test class to inherit."""

from __future__ import annotations

import copy
import gc
import io
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from kdengine.errors import KDError, SettingsError
from kdengine.methods.distiller import Distiller
from kdengine.methods.step import Step
from kdengine.testing.bench import Bench, installed
from kdengine.testing.declarations import DeclarationChecks
from kdengine.testing.kept import KeptChecks
from kdengine.testing.networks import tiny_pair, vit_pair

__all__ = ["DistillerContract"]


class DistillerContract(DeclarationChecks, KeptChecks):
    """What every method must satisfy, tested on pairs of tiny networks with different widths, map sizes and architectures.

    Inherit from it, and pytest runs every check::

        class TestRKD(DistillerContract):
            method = "rkd"

    Attributes:
        method: the name of an installed method, or its class.
        options: options that it requires, if any.
        at_equality: term -> value, for terms with a known value when student and teacher are the same network.
        task: the task to test it on, ``classification`` or ``multilabel``; by default the first that it serves.
    """

    method: ClassVar[str | type[Distiller]]
    options: ClassVar[Mapping[str, Any]] = {}
    at_equality: ClassVar[Mapping[str, float]] = {}
    task: ClassVar[str | None] = None

    def bench(self, pair: tuple[nn.Module | None, nn.Module] | None = None, **settings: Any) -> Bench:
        """A bench with one lane that uses the method."""
        return Bench(self.method, pair or tiny_pair(), self.options, **{"task": self.task, **settings})

    @property
    def kinds(self) -> Sequence[type[Distiller]]:
        """The class of the method; of a composition, those of all its methods."""
        return installed().methods(self.method) if isinstance(self.method, str) else [self.method]

    def test_terms_are_finite_and_teach_the_student(self) -> None:
        """All terms are finite, and in some phase their gradients reach the student."""
        _check_teaching(self.bench())

    def test_a_transformer_can_teach_a_cnn(self) -> None:
        """The same for a vision transformer as teacher of a CNN."""
        _check_teaching(self.bench(vit_pair()))

    def test_every_connector_is_trained(self) -> None:
        """Every trainable tensor of the method gets a gradient in some phase."""
        bench, reached = self.bench(), set()
        for lane in bench.phases():
            bench.step(bench.batch(4))
            reached |= {id(value) for value in lane.module.parameters() if value.grad is not None}
        for step in bench.lane.chain:
            idle = [name for name, value in step.module.distillers.named_parameters() if id(value) not in reached]
            assert not idle, f"no gradient ever reaches {idle}: a connector that is not used, or detached"

    def test_the_optimizer_sees_everything_that_is_trained(self) -> None:
        """Every leaf that the terms depend on is a parameter of the student or the method, and exists before training."""
        bench = self.bench()
        known = {id(value) for step in bench.lane.chain for value in step.module.parameters()}
        for _ in bench.phases():
            leaves = _leaves(bench.terms(bench.batch(4)))
            unknown = [list(leaf.shape) for leaf in leaves if id(leaf) not in known and leaf.shape != (4, 3, 32, 32)]
            assert not unknown, (
                f"the terms depend on trainable tensors of shapes {unknown} that the optimizer does not have: "
                "create them in build, as parameters or modules of the method, and detach the teacher's tensors"
            )
            bench.step(bench.batch(4))
            late = [name for name, value in bench.lane.module.named_parameters() if id(value) not in known]
            assert not late, f"{late} were created after the optimizer: create connectors in build"

    def test_the_teacher_stays_as_it_was(self) -> None:
        """The teacher's weights, buffers, gradients and mode are unchanged."""
        bench = self.bench()
        assert bench.teacher is not None
        before = copy.deepcopy(bench.teacher.state_dict())
        for lane in bench.phases():
            bench.step(bench.batch(4))
            assert not any(module.training for module in bench.teacher.modules()), "the method put the teacher in train mode"
            touched = [name for name, value in bench.teacher.named_parameters() if value.grad is not None]
            assert not touched, f"gradients reached the teacher in the phase '{lane.phase.name}': {touched}"
        _check_equal(before, bench.teacher.state_dict(), "the teacher's weights or buffers")

    def test_what_is_handed_over_stays_as_it_was(self) -> None:
        """The method writes to neither images, labels and indices nor the teacher's tensors."""
        bench = self.bench()
        for _ in bench.phases():
            batch = bench.batch(4)
            traces = bench.traces(batch)
            handed = {"x": batch.x, "y": batch.y, **({} if batch.index is None else {"index": batch.index})}
            for trace in traces.values():
                handed |= {name: trace[name] for name in trace}
                handed |= {"logits": trace.logits} if trace.has_logits else {}
            before = {name: value.detach().clone() for name, value in handed.items()}
            bench.step(batch, traces)
            _check_equal(before, handed, "tensors that the method must not write to (clone() them first)")

    def test_weight_zero_is_plain_training(self) -> None:
        """With weight 0, the student's weights are those of plain training."""
        off = Bench(self.method, tiny_pair(), {**self.options, "weight": 0}, task=self.task)
        plain = Bench(None, tiny_pair(), task=off.task)
        for bench in (off, plain):
            bench.lane.begin_epoch()
            for seed in (1, 2):
                bench.step(bench.batch(4, seed))
        _check_equal(plain.student.state_dict(), off.student.state_dict(), "with weight 0, the student's weights")

    def test_the_random_states_are_left_alone(self) -> None:
        """The method seeds no generator; it may draw from torch, Python and NumPy, whose states belong to its lane."""
        bench = self.bench()
        for lane in bench.phases():
            ends = []
            for seed in (1, 2):
                lane.randomness.reseed(seed)
                bench.step(bench.batch(4))
                ends.append(lane.randomness.state_dict())
            one, two = ends
            assert not torch.equal(one["torch"][0], two["torch"][0]), "the method seeds torch: only the run may do so"
            assert one["python"] != two["python"], "the method seeds Python's random: only the run may do so"
            assert one["numpy"] != two["numpy"], "the method seeds NumPy: only the run may do so"

    def test_nothing_is_left_behind(self) -> None:
        """After a step, no hook remains on either network, and no tensor of the batch stays alive."""
        bench = self.bench()
        teacher = bench.teacher
        assert teacher is not None
        hooks = _hooks(teacher) + _hooks(bench.student)
        for lane in bench.phases():
            seen = _watched(lane.module.methods.values(), lambda: bench.step(bench.batch(4)))
            lane.module.zero_grad()
            if _alive(seen):  # perhaps only in a cycle; to collect takes longer than everything else here
                gc.collect()
            alive = _alive(seen)
            assert not alive, f"the method keeps {alive} of the last step alive: store detached copies, or nothing"
        assert _hooks(teacher) + _hooks(bench.student) == hooks, "the method leaves hooks on the networks: use taps"

    def test_a_batch_of_one_and_a_ragged_batch(self) -> None:
        """A small last batch trains, or is refused with a ``KDError``."""
        for count in (3, 1):
            bench = self.bench()
            for lane in bench.phases():
                lane.learner.eval()  # batch norm of one image is the network's problem, not the method's
                try:
                    terms = bench.terms(bench.batch(count))
                except KDError:
                    return
                values = {name: float(value.detach()) for name, value in terms.items()}
                assert np.isfinite(list(values.values())).all(), f"a batch of {count} gives {values}"
                bench.step(bench.batch(count))

    def test_bf16_forwards(self) -> None:
        """With forwards in bf16, the terms are finite and float32."""
        bench = self.bench(precision="bf16")
        for _ in bench.phases():
            bench.step(bench.batch(4))
            for name, value in bench.terms(bench.batch(4)).items():
                assert value.dtype == torch.float32, f"{name} is {value.dtype}: compute losses in float32"
                assert torch.isfinite(value), f"{name} = {float(value.detach())} after a forward in bf16"

    def test_the_state_survives_a_restart(self) -> None:
        """Saved, loaded into a new lane and continued, training is bit-identical, connectors included."""
        first, second = self.bench(epochs=2), self.bench(epochs=2)
        file = io.BytesIO()
        for lane in first.phases():
            if len(lane.history) == lane.total_epochs - 1:
                torch.save(lane.state_dict(), file)
            first.step(first.batch(4, seed=len(lane.history)))
        file.seek(0)
        second.lane.load_state_dict(torch.load(file, weights_only=True))
        for lane in second.phases():
            second.step(second.batch(4, seed=len(lane.history)))
        _check_equal(first.lane.module.state_dict(), second.lane.module.state_dict(), "after a restart, weights or buffers")

    def test_copies_are_independent(self) -> None:
        """After a step, the method can be copied, and the copy shares no weights with it."""
        bench = self.bench()
        for lane in bench.phases():
            bench.step(bench.batch(4))
            twin = copy.deepcopy(lane.module.distillers)
            for (name, mine), theirs in zip(lane.module.distillers.named_parameters(), twin.parameters(), strict=True):
                assert mine.data_ptr() != theirs.data_ptr(), f"{name} is shared with its copy"

    def test_an_unknown_option_is_refused_with_the_nearest_name(self) -> None:
        """For ``weigth``, the error suggests ``weight``."""
        for kind in self.kinds:
            message = ""
            try:
                kind(weigth=1.0)
            except SettingsError as error:
                message = str(error)
            assert "'weight'" in message, f"{kind.name}: the option 'weigth' gives {message or 'no error'}"

    def test_the_description_is_complete(self) -> None:
        """``describe()`` returns one of the four categories, a summary, the source, and help for every option."""
        for kind in self.kinds:
            facts = kind.describe()
            assert facts["category"] in {"response", "multi-connection", "shared-representation", "relational"}, facts
            assert facts["summary"], f"{facts['name']}: the class docstring must begin with a summary"
            assert facts["source"], f"{facts['name']}: the class docstring must contain 'Source: ...'"
            undocumented = [name for name, option in facts["options"].items() if not option["help"]]
            assert not undocumented, f"{facts['name']}: no help for {undocumented}: write a string under each option"

    def test_what_it_costs_when_there_is_nothing_left_to_learn(self) -> None:
        """The terms in ``at_equality`` have their known values when student and teacher are the same network."""
        student = tiny_pair()[1]
        bench, measured = self.bench((student, student)), {}
        for lane in bench.phases():
            lane.module.eval()
            terms = {name: float(value.detach()) for name, value in bench.terms(bench.batch(4)).items() if name != "task"}
            measured.update({name.partition(".")[2]: value for name, value in terms.items()})
            lane.module.train()
        for name, known in self.at_equality.items():
            assert name in measured, f"at_equality has '{name}', which is not a term; the terms are {', '.join(measured)}"
            assert abs(measured[name] - known) < 1e-5, f"{name} = {measured[name]}, not {known}"


def _check_teaching(bench: Bench) -> None:
    taught = False
    for lane in bench.phases():
        terms = bench.terms(bench.batch(4))
        for name, value in terms.items():
            assert torch.isfinite(value), f"{name} = {float(value.detach())}"
        own = [value for name, value in terms.items() if name != "task" and value.requires_grad]
        if own:
            weights = list(lane.learner.parameters())
            gradients = torch.autograd.grad(torch.stack(own).sum(), weights, allow_unused=True)
            assert all(torch.isfinite(slope).all() for slope in gradients if slope is not None), "a gradient is not finite"
            taught |= any(slope is not None and bool(slope.any()) for slope in gradients)
    assert taught, "no term of the method has a gradient that reaches the student"


def _check_equal(before: Mapping[str, Tensor], after: Mapping[str, Tensor], what: str) -> None:
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    assert not changed, f"{what} changed: {changed}"


def _leaves(terms: Mapping[str, Tensor]) -> list[Tensor]:
    """The leaf tensors that the terms have gradients for."""
    leaves: dict[int, Tensor] = {}
    waiting: list[Any] = [value.grad_fn for value in terms.values()]
    seen = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves[id(node.variable)] = node.variable
        waiting += [following for following, _ in node.next_functions]
    return list(leaves.values())


def _hooks(network: nn.Module) -> int:
    """The number of hooks on a network, plus global module hooks."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    everywhere = sum(len(getattr(nn.modules.module, f"_global{kind}")) for kind in kinds)
    return everywhere + sum(len(getattr(module, kind)) for module in network.modules() for kind in kinds)


def _alive(seen: Iterable[tuple[str, weakref.ref[Tensor]]]) -> list[str]:
    """The names of the tensors that still exist, sorted."""
    return sorted({name for name, tensor in seen if tensor() is not None})


def _watched(methods: Iterable[Distiller], act: Callable[[], None]) -> list[tuple[str, weakref.ref[Tensor]]]:
    """The tensors that the methods receive while ``act`` runs, as names and weak references."""
    seen: list[tuple[str, weakref.ref[Tensor]]] = []

    def note(_: nn.Module, handed: tuple[Step]) -> None:
        (step,) = handed
        for side, trace in (("student", step.student), ("teacher", step.teacher)):
            seen.extend((f"{side}['{name}']", weakref.ref(trace[name])) for name in trace)
            seen.extend([(f"{side}.logits", weakref.ref(trace.logits))] if trace.has_logits else [])

    handles = [method.register_forward_pre_hook(note) for method in methods]
    act()
    for handle in handles:
        handle.remove()
    return seen
