from nowhere_to_be_found.config import Node  # the adapter reads this file, and does not run it

CFG = Node()

CFG.SOLVER = Node()
CFG.SOLVER.EPOCHS = 240
CFG.SOLVER.LR = some_function_of(CFG)  # noqa: F821  no value that could be read

CFG.SOFT = Node()
CFG.SOFT.TEMPERATURE = 4
CFG.SOFT.LOSS = Node()
CFG.SOFT.LOSS.CE_WEIGHT = 0.1
CFG.SOFT.LOSS.KD_WEIGHT = 0.9

CFG.HINT = Node({"LAYER": 2, "INPUT_SIZE": (32, 32)})
CFG.HINT.LOSS = Node()
CFG.HINT.LOSS.CE_WEIGHT = 1.0
CFG.HINT.LOSS.FEAT_WEIGHT = 100.0

CFG.EARLY = Node()
CFG.EARLY.WEIGHT = 0.5
CFG.EARLY.KERNEL_SIZE = 1

CFG.WARM = Node()
CFG.WARM.EPOCHS = 4
