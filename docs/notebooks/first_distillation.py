# %% [markdown]
# # The first distillation
#
# A large network teaches a small one to read handwritten digits. The data is built in, nothing is downloaded, and a CPU is
# enough. If kdengine is missing: `pip install 'kdengine[all]'`.

# %%
from kdengine import Engine

# %% [markdown]
# ## The student alone
#
# Without a teacher, the student learns from the labels alone. This is the number to beat.

# %%
alone = Engine(None, "resnet8", data="digits", epochs=10, out="runs/alone").fit()
alone

# %% [markdown]
# ## With a teacher
#
# `resnet14` has no weights yet, so it is trained first, and kept for the next run. Then the student learns from the labels
# and, by the method `rkd`, from the distances and angles between the teacher's embeddings.

# %%
taught = Engine("resnet14", "resnet8", plugins=["rkd"], data="digits", epochs=10, out="runs/taught").fit()
taught

# %%
print(f"teacher {taught.teacher_top1:.2f} %, student {taught.top1:.2f} %, student alone {alone.top1:.2f} %")

# %% [markdown]
# One pair of runs does not show whether the difference is more than chance: the next notebook compares over several seeds.
#
# ## What was kept
#
# Every epoch has a row of numbers, each loss term by its name.

# %%
for row in taught.history[::3]:
    print(row["epoch"], f"{row['test_top1']:.2f} %", {name: round(value, 3) for name, value in row["terms"].items()})

# %% [markdown]
# The folder holds the weights as a plain state dict, the settings that repeat the run, and a page with its curves.

# %%
import os

print(sorted(os.listdir(taught.folder)))

# %% [markdown]
# ## Use the student
#
# `result.student` is a plain module in eval mode. It takes images as the run did: normalised, [B, C, H, W].

# %%
import torch

student = taught.student
with torch.no_grad():
    print(student(torch.zeros(1, 3, 32, 32)).shape)

# %% [markdown]
# `kdengine export runs/taught --to onnx` writes a file that takes plain images, and `kdengine predict runs/taught IMAGE`
# names what is on them.
