from kdengine_docs.blocks import blocks_of, to_run

PAGE = """\
# A page

Text with `kdengine inside`.

```console
$ kdengine run --plugin st -o 'fitnet.taps="a=b"' \\
      --student resnet8   # a comment
$ DATA=digits@train=64
$ git clone URL && cd there
```

    kdengine data images:~/photos
    Engine.resume("runs/...")

<!-- not run: it needs a download -->
```console
$ kdengine train --model timm:resnet50@pretrained=true
```

<!-- output of: make demo -->

    kdengine run ...

* a list

  ```python
  print("```")
  ```

```console
$ kdengine settings
Options
```
"""


def test_blocks_are_found_in_order_with_their_language_line_and_marks():
    found = [(block.language, block.line, block.not_run, block.output_of) for block in blocks_of(PAGE)]
    assert found == [
        ("console", 5, "", ""),
        ("", 12, "", ""),
        ("console", 16, "it needs a download", ""),
        ("", 22, "", "make demo"),
        ("python", 26, "", ""),
        ("console", 30, "", ""),
    ]


def test_commands_are_split_as_a_shell_splits_them():
    first, second, _, elided, code, _ = blocks_of(PAGE)
    run, variable, clone, there = first.commands
    assert run.words == ("kdengine", "run", "--plugin", "st", "-o", 'fitnet.taps="a=b"', "--student", "resnet8")
    assert (variable.assigned, variable.words) == ("DATA", ("digits@train=64",))
    assert (clone.words, there.words) == (("git", "clone", "URL"), ("cd", "there"))
    assert [command.words for command in second.commands] == [("kdengine", "data", "images:~/photos")]
    assert [command.elided for command in elided.commands] == [True]
    assert code.commands == []


def test_a_block_with_output_is_told_from_one_of_commands_alone():
    assert [block.printed for block in blocks_of(PAGE)] == [False, False, False, False, False, True]


def test_what_is_to_be_run_is_not_marked_and_leaves_nothing_out():
    found = [(line, command.words[:2]) for line, command in to_run(PAGE)]
    assert found == [
        (5, ("kdengine", "run")),
        (5, ("digits@train=64",)),
        (5, ("git", "clone")),
        (5, ("cd", "there")),
        (12, ("kdengine", "data")),
        (30, ("kdengine", "settings")),
    ]
