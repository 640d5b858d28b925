# %% [markdown]
# # Which method is best on this pair?
#
# All methods start from the same student and see the same batches; the teacher runs once per batch for all of them. A student
# without any method, *plain*, is always among them.

# %%
from kdengine import Comparison

comparison = Comparison("resnet14", "resnet8", ["st", "rkd", "at"], trials=2, data="digits", epochs=8, out="runs/compared")
board = comparison.fit()
board

# %% [markdown]
# Compare by the *last* accuracy: the best epoch was chosen on the test images. The gain is the mean difference from the plain
# student of the same trial, with its 95 % confidence interval; two trials make wide ones.

# %%
table = board.to_pandas()
table

# %% [markdown]
# ## Warnings
#
# Numbers that mean nothing are named: a plain student at chance, a teacher behind its student, a loss that exploded.

# %%
for warning in board.warnings:
    print(warning)

# %% [markdown]
# ## Curves
#
# Every lane of every trial has a run folder with its metrics.

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(7, 4))
for folder in sorted(Path("runs/compared/trial-1").iterdir()):
    if (folder / "metrics.jsonl").exists():
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        axes.plot([row["epoch"] for row in rows], [row["test_top1"] for row in rows], label=folder.name)
axes.set_xlabel("epoch")
axes.set_ylabel("test top-1, %")
axes.legend()
plt.show()

# %% [markdown]
# `runs/compared/report.html` has these curves and those of every loss term on one page.
