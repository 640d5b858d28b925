# %% [markdown]
# # A method of your own
#
# A method is a class with a name and a `forward`. It says which layers it reads by names that work on every network, and
# returns named loss terms.

# %%
import torch
import torch.nn.functional as F
from kdengine import Distiller, Engine
from torch import nn


class Cosine(Distiller):
    """Align the student's embeddings with the teacher's, after a linear map."""

    name = "cosine"
    taps = ("embedding",)

    class Options(Distiller.Options):
        scale: float = 1.0
        """Factor on the cosine."""

    def build(self, pair):  # connectors are trained with the student, then discarded
        widths = [side["embedding"].shape[1] for side in (pair.student, pair.teacher)]
        self.map = nn.Linear(*widths)

    def forward(self, step):
        student, teacher = self.map(step.student["embedding"]), step.teacher["embedding"]
        return {"cosine": self.options.scale * (1 - F.cosine_similarity(student, teacher).mean())}


# %% [markdown]
# ## Look before you train
#
# The plan shows what is read and what is built, without training anything.

# %%
plan = Engine("resnet14", "resnet8", plugins=[Cosine(scale=2.0)], data="digits", epochs=5).plan().describe()
for tap in plan["phases"][0]["taps"]:
    print("reads", tap["student_place"], tap["student_shape"], "and", tap["teacher_place"], tap["teacher_shape"])
for method in plan["methods"]:
    print("builds", method["connectors"])

# %% [markdown]
# ## Train

# %%
result = Engine("resnet14", "resnet8", plugins=[Cosine(scale=2.0)], data="digits", epochs=5, out="runs/cosine").fit()
result

# %%
[round(row["terms"]["cosine.cosine"], 4) for row in result.history]

# %% [markdown]
# ## Check the formula
#
# `make_step` makes a step from plain tensors. Vectors that point the same way must cost nothing, opposite ones the most.

# %%
from kdengine.testing import built, make_step

vectors = torch.randn(4, 8)
for sign, expected in ((1.0, 0.0), (-1.0, 2.0)):
    step = make_step(student={"embedding": sign * vectors}, teacher={"embedding": vectors})
    method = built(Cosine(), step)
    method.map.load_state_dict({"weight": torch.eye(8), "bias": torch.zeros(8)})
    loss = method(step)["cosine"]
    assert torch.isclose(loss, torch.tensor(expected), atol=1e-5)
    print(sign, float(loss))

# %% [markdown]
# `kdengine.testing.DistillerContract` has the tests that every method must pass. To let others install yours, make it a
# package: [writing a method](../writing-a-method.md).
