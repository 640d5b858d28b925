"""What the built files hold: a source distribution all that its package and its tests need, and nothing that lay about."""

import shutil
import subprocess
import tarfile
import zipfile

import pytest
from kdengine_release.build import BuildError, build
from kdengine_release.packages import Package

pytest.importorskip("hatchling", reason="the extra 'dev' is not installed")

WRITTEN = {"PKG-INFO", ".gitignore"}
"""What the builder puts into a source distribution by itself."""
OF_THE_REPOSITORY = ("benchmarks/", "docs/", "release/", "test_documents.py", "test_house.py", "test_plugin_packages.py")
"""Of tests/: what only a clone can run."""
FEW = ("kdengine", "kdzoo", "kdplugin-lskd", "kdplugin-rkd")
"""One of each kind: the engine, the zoo, a plugin with data files and one without."""


@pytest.fixture(scope="module", params=["few", pytest.param("all", marks=pytest.mark.slow)])
def built(request, ours, tmp_path_factory):
    """A folder with distributions, and the packages of which they are."""
    if request.param == "all":
        return request.getfixturevalue("dist"), ours
    few = [package for package in ours if package.name in FEW]
    folder = tmp_path_factory.mktemp("few")
    build(few, folder)
    return folder, few


def sdist(folder, package):
    """The names in its source distribution, below its only folder."""
    with tarfile.open(folder / f"{package.module}-{package.version}.tar.gz") as archive:
        names = [member.name.partition("/") for member in archive.getmembers() if member.isfile()]
    assert {top for top, _, _ in names} == {f"{package.module}-{package.version}"}
    return {name for _, _, name in names}


def wheel(folder, package):
    """Names and bytes of what its wheel installs."""
    with zipfile.ZipFile(folder / f"{package.module}-{package.version}-py3-none-any.whl") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def kept(package):
    """The files of its folder that git keeps, or would keep."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=package.folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("this is no clone")
    return {name for name in done.stdout.splitlines() if (package.folder / name).is_file()}


def test_all_plugins_are_packed_alike(ours):
    sdist = {"only-include": ["src", "tests"], "force-include": {"../conftest.py": "conftest.py"}}
    for package in ours[2:]:
        targets = package.declared["tool"]["hatch"]["build"]["targets"]
        assert targets == {"sdist": sdist, "wheel": {"packages": [f"src/{package.module}"]}}, package.name


def test_there_is_a_wheel_and_a_source_distribution_of_every_package_and_nothing_else(built):
    folder, packages = built
    expected = {f"{package.module}-{package.version}{end}" for package in packages for end in ("-py3-none-any.whl", ".tar.gz")}
    assert {file.name for file in folder.iterdir()} == expected


def own_tests(package):
    """Its tests, and what they need beside themselves."""
    tests = {name for name in kept(package) if name.startswith("tests/")}
    if package.name == "kdengine":
        clone = tuple(f"tests/{name}" for name in OF_THE_REPOSITORY)
        return {name for name in tests if not name.startswith(clone)} | {"conftest.py", "docs/training.md"}
    return tests if package.name == "kdzoo" else tests | {"conftest.py"}


def modules_of(package):
    """The files of its package, by their names in the wheel."""
    source = "" if package.name == "kdengine" else "src/"
    files = {name.removeprefix(source) for name in kept(package) if name.startswith(f"{source}{package.module}/")}
    return {name: package.folder / source / name for name in files}


def test_source_distributions_hold_package_tests_licence_and_readme_and_nothing_else(built):
    folder, packages = built
    for package in packages:
        modules = {path.relative_to(package.folder).as_posix() for path in modules_of(package).values()}
        expected = {*modules, *own_tests(package), *WRITTEN, "LICENSE", "README.md", "pyproject.toml"}
        assert sdist(folder, package) == expected, package.name


def test_wheels_hold_the_package_its_licence_and_entry_points_and_nothing_else(built):
    folder, packages = built
    for package in packages:
        held, modules = wheel(folder, package), modules_of(package)
        about = {name for name in held if not name.startswith(f"{package.module}/")}
        info = f"{package.module}-{package.version}.dist-info"
        names = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
        assert about == {f"{info}/{name}" for name in names}, package.name
        assert f"{package.module}/py.typed" in held
        assert {name: held[name] for name in held.keys() - about} == {
            name: path.read_bytes() for name, path in modules.items()
        }, package.name


def test_runs_and_caches_that_lie_about_are_left_out_and_older_distributions_replaced(tmp_path, root):
    plugins = tmp_path / "plugins"
    folder = plugins / "kdplugin-st"
    shutil.copytree(root / "plugins" / "kdplugin-st", folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "plugins" / "conftest.py", plugins)
    for name in (
        "runs/first/run.toml",
        "dist/old.whl",
        "notes.txt",
        ".pytest_cache/x",
        "tests/__pycache__/x.pyc",
        "src/.mypy_cache/x",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    shutil.copy(root / ".gitignore", folder)
    out = tmp_path / "out"
    out.mkdir()
    for name in ("kdplugin_st-0.0.1.tar.gz", "kdplugin_st-0.0.1-py3-none-any.whl", "other-1.0.tar.gz"):
        (out / name).touch()
    package = Package(folder)
    build([package], out)
    source = {"src/kdplugin_st/__init__.py", "src/kdplugin_st/py.typed", "tests/test_st.py"}
    assert sdist(out, package) == {*source, *WRITTEN, "LICENSE", "README.md", "pyproject.toml", "conftest.py"}
    assert len(list(out.iterdir())) == 3
    assert (out / "other-1.0.tar.gz").exists()


def test_a_package_that_cannot_be_built_is_named_with_what_its_builder_said(tmp_path):
    (tmp_path / "broken").mkdir()
    text = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n[project]\nname = "broken"\n'
    (tmp_path / "broken" / "pyproject.toml").write_text(text)
    with pytest.raises(BuildError, match=r"(?s)broken cannot be built:\n.*version"):
        build([Package(tmp_path / "broken")], tmp_path / "out")


@pytest.mark.slow
def test_a_wheel_built_from_the_source_distribution_is_the_same_to_the_byte(dist, ours, tmp_path):
    sources = []
    for package in ours:
        with tarfile.open(dist / f"{package.module}-{package.version}.tar.gz") as archive:
            archive.extractall(tmp_path, filter="data")
        sources.append(Package(tmp_path / f"{package.module}-{package.version}"))
    build(sources, tmp_path / "again", ["wheel"])
    for package in ours:
        assert wheel(tmp_path / "again", package) == wheel(dist, package), package.name
