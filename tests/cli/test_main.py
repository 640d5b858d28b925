import errno
import importlib.metadata
import io
import os
import sys

import pytest

from kdengine.cli.main import main

COMMANDS = [
    "run",
    "train",
    "inspect",
    "plugins",
    "models",
    "data",
    "evaluate",
    "report",
    "export",
    "predict",
    "benchmark",
    "push",
    "new-plugin",
]


def test_help_lists_every_command_and_does_not_import_torch(python):
    code = """
        import contextlib, io, sys, time
        start = time.perf_counter()
        from kdengine.cli.main import main
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            code = main(["--help"])
        print(code, "torch" in sys.modules, "timm" in sys.modules, time.process_time() < 1.0)
        print(text.getvalue())
    """
    first, _, text = python(code).partition("\n")
    assert first == "0 False False True"
    assert all(f"\n  {command} " in text for command in COMMANDS)
    assert "\n  kdengine run --plugin kdplugin-rkd --teacher timm:resnet32 --student resnet8\n" in text


def test_help_of_every_command_explains_it_without_importing_torch(python):
    code = f"""
        import contextlib, io, sys
        from kdengine.cli.main import main
        for command in {COMMANDS!r}:
            text = io.StringIO()
            with contextlib.redirect_stdout(text):
                code = main([*command.split(), "--help"])
            print(command, code, f"Usage: kdengine {{command}}" in text.getvalue(), chr(92) + "b" in text.getvalue())
        print("torch" in sys.modules)
    """
    assert python(code).splitlines() == [*(f"{command} 0 True False" for command in COMMANDS), "False"]


def test_examples_in_help_stand_on_lines_of_their_own(kdengine):
    out = kdengine("run", "--help").out
    assert "\n  kdengine run --plugin rkd --teacher timm:resnet32 --student resnet8\n" in out


def test_the_version_is_that_of_the_distribution(kdengine):
    said = kdengine("--version")
    assert (said.code, said.out.split()[-1]) == (0, importlib.metadata.version("kdengine"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "No such command 'rnu'"),
        (["run", "--plugni", "st"], "--plugin"),
        (["inspect"], "MODEL"),
        (["inspect", "resnet8", "--size", "big"], "--size"),
        (["report"], "FOLDER"),
        (["evaluate"], "FOLDER"),
        (["evaluate", "x", "--weights", "worst"], "--weights"),
    ],
)
def test_a_command_line_that_is_not_understood_ends_with_2(arguments, message, kdengine):
    said = kdengine(*arguments)
    assert said.code == 2
    assert message in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "resnet8", "resnet8", "--plugin", "st", "--taps-only"], "leave it out, or leave out STUDENT"),
        (["plugins", "--json", "show", "st"], "kdengine plugins show NAME --json"),
        (["plugins", "--group", "classic", "check", "st"], "--group before 'check'"),
        (["plugins", "--markdown", "--check", "show", "st"], "--markdown, --check before 'show'"),
        (["plugins", "--group", "classic", "--markdown"], "leave out --group, or --markdown"),
        (["plugins", "--json", "--markdown"], "leave out --json, or --markdown"),
        (["data", "digits", "--example", "pictures"], "leave out 'digits', or --example"),
        (["data", "--bad"], "name one with --example, or leave out --bad"),
        (["report", "runs", "--format", "csv", "--json"], "--json and --format csv"),
        (["report", "runs", "--format", "text", "--json"], "--json and --format text"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused_before_anything_is_done(arguments, message, kdengine, here):
    said = kdengine(*arguments)
    assert said.code == 2
    assert message in said.err
    assert not list(here.iterdir())


def test_nothing_at_all_shows_the_help_and_ends_with_2(kdengine):
    said = kdengine()
    assert said.code == 2
    assert "Commands:" in said.out + said.err


def test_the_module_runs_as_a_process_and_passes_its_exit_code_on(process):
    said = process("run", "--plugin")
    assert said.code == 2
    assert "Traceback" not in said.err
    assert process("--version").code == 0


def test_a_plugin_can_add_a_command(kdengine, distribution):
    distribution(
        "kdplugin-greet",
        """
        import click
        from kdengine import hookimpl

        @hookimpl
        def kdengine_commands(cli):
            @cli.command("greet")
            def greet():
                click.echo("hello from a plugin")
        """,
    )
    said = kdengine("greet")
    assert (said.code, said.out) == (0, "hello from a plugin\n")


def test_a_plugin_that_fails_to_add_a_command_does_not_hide_that_another_is_unknown(kdengine, distribution):
    source = "from kdengine import hookimpl\n\n@hookimpl\ndef kdengine_commands(cli):\n    1 / 0\n"
    distribution("kdplugin-odd", source)
    said = kdengine("rnu")
    assert said.code == 2
    assert "No such command 'rnu'" in said.err


def test_what_standard_output_cannot_show_is_escaped(distribution, monkeypatch):
    source = """
        import click
        from kdengine import hookimpl

        @hookimpl
        def kdengine_commands(cli):
            @cli.command("fruit")
            def fruit():
                click.echo("\\u65e5")
    """
    distribution("kdplugin-fruit", source)
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "latin-1", write_through=True))
    assert main(["fruit"]) == 0
    assert written.getvalue() == b"\\u65e5\n"


def test_with_json_an_interruption_is_one_object_too(kdengine, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("kdengine.storage.runfolder.RunFolder.settings", interrupt)
    said = kdengine("evaluate", "x", "--json")
    assert (said.code, said.json) == (130, {"error": "interrupted", "kind": "KeyboardInterrupt"})
    assert kdengine("evaluate", "x").out == ""


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ENOSPC])
def test_what_the_system_refuses_is_told_and_not_traced(number, kdengine, monkeypatch):
    def refuse(*_):
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setattr("kdengine.storage.runfolder.RunFolder.settings", refuse)
    said = kdengine("evaluate", "x", "--json")
    assert (said.code, said.err) == (2, f"kdengine: {os.strerror(number)}: 'some/file'.\n")
    assert said.json["kind"] in ("OSError", "PermissionError", "NotADirectoryError")


def test_other_errors_of_the_system_stay_faults_of_ours(kdengine, monkeypatch):
    def fail(*_):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr("kdengine.storage.runfolder.RunFolder.settings", fail)
    with pytest.raises(OSError, match="Bad file descriptor"):
        kdengine("evaluate", "x")


@pytest.fixture
def own_factory(here, monkeypatch):
    """A network of the user's own that cannot be built."""
    (here / "own_factory.py").write_text("def make(**options):\n    raise RuntimeError('no such layer')\n")
    monkeypatch.syspath_prepend(here)
    yield "python:own_factory:make"
    sys.modules.pop("own_factory", None)


def test_an_error_in_code_of_the_users_own_mentions_debug_and_debug_shows_it(kdengine, own_factory):
    said = kdengine("inspect", own_factory)
    assert said.code == 2
    assert "no such layer" in said.err
    assert said.err.endswith("(--debug shows where.)\n")
    assert "Traceback" not in said.err
    for place in (["--debug", "inspect", own_factory], ["inspect", own_factory, "--debug"]):
        said = kdengine(*place)
        assert said.code == 2
        assert 'own_factory.py", line 2, in make' in said.err
        assert "--debug" not in said.err.splitlines()[-1]


def test_debug_shows_the_traceback_of_an_error_of_ours_which_does_not_mention_it_otherwise(kdengine):
    assert "--debug" not in kdengine("report", "nowhere").err
    assert "in find_runs" in kdengine("report", "nowhere", "--debug").err


def test_an_interrupt_outside_a_run_is_said(kdengine, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["kdengine.cli.main"].cli, "main", interrupted)
    said = kdengine("models")
    assert (said.code, said.err) == (130, "kdengine: interrupted\n")
